"""What a layer may see is asked of its model, and a padded batch or several options change nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.inference.attention_mask import Visible, masking_by
from harness.models import grouped_attention
from harness.self_check.check import small_lm
from harness.self_check.compare import TOLERANCE, Plain, decoding_gap, options_gap, probe_sequences
from harness.self_check.sweep import tiny_model

WINDOW = 8
STRAY = ("llama", "granite", "glm4", "olmo2")


def gap(kind: str, implementation: str = "sdpa", **changes: Any) -> float:
    eager, lm = (tiny_model(kind, name, **changes) for name in ("eager", implementation))
    asked = probe_sequences(eager.config.vocab_size)
    plain, read = Plain(eager, asked), small_lm(lm)
    return max(
        decoding_gap(read, plain, asked, [0, 1, 2]), options_gap(read, plain, asked, [0, 1, 2], side_by_side=True)
    )


@pytest.mark.parametrize("kind", STRAY)
@pytest.mark.parametrize("key", ["sliding_window", "attention_chunk_size"])
def test_a_key_that_the_architecture_does_not_read_changes_nothing(kind: str, key: str) -> None:
    lm = small_lm(tiny_model(kind, "sdpa", **{key: WINDOW}))
    assert lm.window is None
    assert gap(kind, **{key: WINDOW}) < TOLERANCE


def test_layer_types_that_the_architecture_does_not_read_change_nothing() -> None:
    kinds = ["sliding_attention", "full_attention"]
    assert gap("llama", num_hidden_layers=2, layer_types=kinds, sliding_window=WINDOW) < TOLERANCE


@pytest.mark.parametrize("kind", ["mistral", "phi3", "starcoder2", "gemma3_text", "olmo3"])
def test_windows_that_the_architecture_reads_are_kept_by_position(kind: str) -> None:
    assert small_lm(tiny_model(kind, "sdpa", sliding_window=WINDOW)).window == WINDOW
    assert gap(kind, sliding_window=WINDOW) < TOLERANCE


def test_chunks_are_counted_by_position() -> None:
    assert gap("llama4_text", attn_temperature_tuning=False) < TOLERANCE


def test_outside_a_read_the_masks_are_those_of_transformers() -> None:
    model = tiny_model("mistral", "sdpa", sliding_window=WINDOW)
    ids = torch.arange(8, 40)[None]
    pads = torch.cat([torch.zeros(1, 6, dtype=torch.long), ids], 1)
    seen = (torch.arange(pads.shape[1]) >= 6).long()[None]
    positions = (torch.arange(pads.shape[1])[None] - 6).clamp(0)
    padded = model(input_ids=pads, attention_mask=seen, position_ids=positions).logits
    torch.testing.assert_close(padded[:, 6:], model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    nothing = torch.zeros(1, 1, 1, dtype=torch.bool)
    with masking_by(Visible(positions[:, :1], positions[:, :1], nothing)):
        pass
    torch.testing.assert_close(model(input_ids=ids).logits, padded[:, 6:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt_oss", "granite_swa", "gemma2"])
def test_grouped_attention_gives_the_numbers_of_eager_attention(kind: str) -> None:
    grouped_attention.register()
    assert gap(kind, "grouped") < TOLERANCE


def test_a_sink_takes_its_share_of_the_gradient_too() -> None:
    grouped_attention.register()
    grads = []
    for name in ("eager", "grouped"):
        model = tiny_model("gpt_oss", name).requires_grad_(True)
        model(input_ids=torch.arange(8, 40)[None]).logits.logsumexp(-1).sum().backward()
        grads.append(model.model.layers[0].self_attn.sinks.grad)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-3, rtol=1e-3)


def test_an_argument_that_grouped_attention_does_not_know_is_refused_by_name() -> None:
    one = torch.zeros(1, 1, 1, 4)
    with pytest.raises(UserError, match=r"'position_bias'.*--attention eager"):
        grouped_attention.grouped_attention(torch.nn.Identity(), one, one, one, None, position_bias=one)
    grouped_attention.grouped_attention(
        torch.nn.Identity(), one, one, one, None, position_bias=None, sliding_window=4, is_causal=True
    )
