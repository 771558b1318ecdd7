"""GGUF files of further architectures, experts among them, load as the model that was written."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from harness.errors import UserError
from harness.models.lm import LM
from harness.models.loading import load, wrap
from tests.support import gguf_files
from tests.support.tiny import tokenizer

EXPERTS, USED, WIDTH, WINDOW = 4, 2, 24, 8
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": None,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_EXPERT_KEYS = {".expert_count": EXPERTS, ".expert_used_count": USED, ".expert_feed_forward_length": WIDTH}
_SCALED = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.original_context_length": 16}
_WINDOWED = {".attention.sliding_window": WINDOW}
_MIXED = {"num_experts": EXPERTS, "num_experts_per_tok": USED, "moe_intermediate_size": WIDTH}
_OSS = {"num_local_experts": EXPERTS, "num_experts_per_tok": USED, "sliding_window": WINDOW, "head_dim": 8}
KINDS: dict[str, tuple[type[PretrainedConfig], str, dict[str, Any], dict[str, Any]]] = {
    "phi3": (Phi3Config, "phi3", {"sliding_window": WINDOW}, {**_WINDOWED, ".rope.dimension_count": 8}),
    "phi3, no window": (Phi3Config, "phi3", {"sliding_window": None}, {".rope.dimension_count": 8}),
    "gemma2": (
        Gemma2Config,
        "gemma2",
        {"sliding_window": WINDOW, "head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
        {
            **_WINDOWED,
            ".attn_logit_softcapping": 50.0,
            ".final_logit_softcapping": 30.0,
            ".attention.scale": 8**-0.5,
        },
    ),
    "qwen2_moe": (
        Qwen2MoeConfig,
        "qwen2moe",
        {**_MIXED, "shared_expert_intermediate_size": 48},
        {**_EXPERT_KEYS, ".expert_shared_feed_forward_length": 48},
    ),
    "qwen3_moe": (Qwen3MoeConfig, "qwen3moe", {**_MIXED, "head_dim": 8, "norm_topk_prob": True}, _EXPERT_KEYS),
    "gpt_oss": (
        GptOssConfig,
        "gpt-oss",
        {**_OSS, "intermediate_size": WIDTH, "rope_parameters": {**_YARN, "truncate": False}},
        {**_EXPERT_KEYS, **_WINDOWED, **_SCALED},
    ),
}


def model_of(kind: str) -> LM:
    made, _, changes, _ = KINDS[kind]
    words = tokenizer()
    ids = {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    shape = {**_SHAPE, "intermediate_size": 48, "tie_word_embeddings": False, **ids, **changes}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made(**shape), attn_implementation="eager")
    for value in model.parameters():
        if value.ndim == 1:
            value.data.add_(0.2 * torch.randn_like(value))
    return wrap(model, words)


def special_tensors(lm: LM) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yields the name of a parameter that llama.cpp lays out in its own way, and what it becomes."""
    for name, value in lm.model.named_parameters():
        block = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
        leaf = name.rpartition(".")[2]
        if ".experts." in name:
            yield name, {block + stem: part.contiguous() for stem, part in _experts(lm, leaf, value)}
        elif name.endswith("sinks"):
            yield name, {f"{block}attn_sinks.weight": value}
        elif name.endswith("shared_expert_gate.weight"):
            yield name, {f"{block}ffn_gate_inp_shexp.weight": value.flatten()}
        elif ".mlp.gate." in name or ".router." in name:
            yield name, {f"{block}ffn_gate_inp.{leaf}": value}
        elif lm.config.model_type == "gemma2" and "norm" in name:
            yield name, {f"{block}{_GEMMA_NORMS[name.split('.')[-2]]}.weight": value + 1}


_GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "norm": "output_norm",
}


def _experts(lm: LM, leaf: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    ending = "bias" if leaf.endswith("bias") else "weight"
    oss = lm.config.model_type == "gpt_oss"
    if oss and ending == "weight":
        value = value.transpose(1, 2)
    if leaf.startswith("down"):
        yield f"ffn_down_exps.{ending}", value
        return
    half = value.shape[1] // 2
    yield f"ffn_gate_exps.{ending}", value[:, ::2] if oss else value[:, :half]
    yield f"ffn_up_exps.{ending}", value[:, 1::2] if oss else value[:, half:]


def written(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> LM:
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    lm, (_, architecture, _, keys) = model_of(kind), KINDS[kind]
    monkeypatch.setitem(gguf_files._ARCHITECTURES, lm.config.model_type, architecture)
    special = dict(special_tensors(lm))
    tensors = {name: value.clone() for parts in special.values() for name, value in parts.items()}
    gguf_files.write_gguf(path, lm, keys=keys, without=special, tensors=tensors)
    return lm


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
def test_a_file_gives_the_model_that_was_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    lm = written(kind, path, monkeypatch)
    read = load(str(path), device="cpu", attention="eager")
    ids = torch.arange(5, 45)[None] % lm.config.vocab_size
    with torch.inference_mode():
        torch.testing.assert_close(read.model(ids).logits, lm.model(ids).logits, atol=1e-4, rtol=1e-4)
    assert "unread_keys" not in read.notes


def test_gpt_oss_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("gpt_oss", tmp_path / "model.gguf", monkeypatch)
    with pytest.raises(UserError, match="architecture gpt-oss is one whose files transformers does not read.*original"):
        load(str(tmp_path / "model.gguf"), device="cpu", attention="eager")
