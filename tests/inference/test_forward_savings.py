"""What a forward call leaves out, and that nobody can tell from the numbers."""

from __future__ import annotations

from itertools import zip_longest

import pytest
import torch
from torch import Tensor, nn

from harness.inference.forward import extend, left_padded, new_buffer, visible_columns
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import Counters
from harness.models.lm import LM
from tests.support.tiny import KINDS, shared_lm

ROWS = [list(range(3, 20)), [5, 6, 7]]


@torch.inference_mode()
def read(lm: LM, keep: int) -> KVBuffer:
    buffer = new_buffer(lm, len(ROWS), 32)
    extend(lm, buffer, left_padded(ROWS, [0, 0], lm), Counters(), keep=keep)
    return buffer


def calls_of(module: nn.Module, lm: LM, keep: int) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        read(lm, keep)
    finally:
        hook.remove()
    return seen


def last_mlp(lm: LM) -> nn.Module:
    mlp: nn.Module = lm.model.base_model.layers[-1].mlp
    return mlp


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_is_filled_alone_is_the_cache_of_a_whole_call(kind: str) -> None:
    lm = shared_lm(kind)
    alone, whole = read(lm, keep=0), read(lm, keep=1)
    assert alone.data is not None
    assert whole.data is not None
    assert torch.equal(alone.data[..., : alone.length, :], whole.data[..., : whole.length, :])
    assert not hasattr(alone, "cache_only")


def test_the_end_of_the_last_layer_runs_only_where_logits_are_wanted() -> None:
    lm = shared_lm(KINDS[0])
    assert [len(calls_of(last_mlp(lm), lm, keep)) for keep in (0, 1)] == [0, 1]


def test_a_model_spread_over_devices_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared_lm(KINDS[0])
    monkeypatch.setattr(lm.model, "hf_device_map", {"": "cpu"}, raising=False)
    assert len(calls_of(last_mlp(lm), lm, keep=0)) == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_the_vocabulary_projection_reads_packed_columns(keep: int) -> None:
    lm = shared_lm(KINDS[0])
    head = lm.model.get_output_embeddings()
    # A forward hook sees what the module itself was given.
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    try:
        read(lm, keep)
    finally:
        hook.remove()
    width = seen[0].shape[-1]
    assert seen[0].shape == (len(ROWS), keep, width)
    assert seen[0].stride() == (keep * width, width, 1)
    assert not head._forward_pre_hooks


def masks_of(lm: LM, rows: list[list[int]], new: list[int]) -> tuple[Tensor, list[Tensor | None]]:
    """Logits of more tokens behind `rows`, and the mask that each layer gets for them."""
    masks: list[Tensor | None] = []
    buffer = new_buffer(lm, len(rows), 32)
    with torch.inference_mode():
        extend(lm, buffer, left_padded(rows, [0] * len(rows), lm), Counters())
        columns = left_padded([new] * len(rows), [len(r) for r in rows], lm)
        hooks = [
            layer.self_attn.register_forward_pre_hook(
                lambda _, __, arguments: masks.append(arguments["attention_mask"]), with_kwargs=True
            )
            for layer in lm.model.base_model.layers
        ]
        logits = extend(lm, buffer, columns, Counters(), keep=1)
        for hook in hooks:
            hook.remove()
    assert logits is not None
    return logits, masks


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_behind_equal_prompts_is_read_as_behind_unequal_ones(kind: str) -> None:
    lm = shared_lm(kind)
    (alone, masks), (beside, _) = masks_of(lm, [ROWS[0]], [9]), masks_of(lm, ROWS, [9])
    windowed = [kind == "sliding_attention" for kind in getattr(lm.config, "layer_types", ())]
    for mask, within in zip_longest(masks, windowed, fillvalue=False):
        assert isinstance(mask, Tensor)
        assert mask.shape == (1, 1, 1, len(ROWS[0]) + 1)
        assert mask.all() or within
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)


def test_a_mask_that_hides_nothing_is_left_out_of_longer_reads() -> None:
    lm = shared_lm(KINDS[0])
    columns = left_padded([[4, 5], [6, 7]], [0, 0], lm)
    buffer = new_buffer(lm, 2, 8)
    buffer.open(columns.positions, columns.real, None, columns.dense)
    assert visible_columns(lm, buffer, columns) is None
