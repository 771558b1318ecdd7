"""GGUF files: what they say about positions, windows, scales and tokens is applied, or refused by its name."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from harness.errors import UserError
from harness.evaluation.fingerprint import model_info
from harness.models.lm import LM
from harness.models.loading import load
from tests.support.gguf_files import write_gguf
from tests.support.tiny import random_lm, shared_lm, tokenizer

LENGTH, SHORT = 48, 16


@pytest.fixture(autouse=True)
def names_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes the table of tensor names anew for every module of a model."""
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))


THETA = 10000.0
FACTORS = [1.0, 1.5, 3.0, 8.0]


def loaded(path: Path, lm: LM, **more: Any) -> LM:
    write_gguf(path, lm, **more)
    return load(str(path), device="cpu")


def logits(lm: LM) -> torch.Tensor:
    ids = torch.arange(5, 5 + LENGTH)[None] % lm.config.vocab_size
    with torch.inference_mode():
        found: torch.Tensor = lm.model(ids).logits
    return found


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": THETA, **more}}


def scaled(kind: str, factor: float = 4.0, **more: Any) -> dict[str, Any]:
    return {".rope.scaling.type": kind, ".rope.scaling.factor": factor, **more}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=SHORT)
LENGTH_KEY = {".rope.scaling.original_context_length": SHORT}
SCALINGS = {
    "linear": ("llama", rope("linear", factor=4.0), scaled("linear")),
    "linear, in the old words": ("qwen2", rope("linear", factor=4.0), {".rope.scale_linear": 4.0}),
    "none, with a factor": ("qwen2", {}, scaled("none")),
    "yarn": ("qwen3", YARN, scaled("yarn", **LENGTH_KEY)),
    "yarn, other ramp": (
        "qwen2",
        {"rope_parameters": {**YARN["rope_parameters"], "beta_fast": 8.0, "beta_slow": 2.0}},
        scaled("yarn", **LENGTH_KEY, **{".rope.scaling.yarn_beta_fast": 8.0, ".rope.scaling.yarn_beta_slow": 2.0}),
    ),
    "yarn, attention scaled": (
        "llama",
        {"rope_parameters": {**YARN["rope_parameters"], "attention_factor": 1.5 * (0.1 * math.log(4.0) + 1)}},
        scaled("yarn", **LENGTH_KEY, **{".rope.scaling.attn_factor": 1.5}),
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_positions_are_those_of_the_model(tmp_path: Path, name: str) -> None:
    kind, changes, keys = SCALINGS[name]
    lm = random_lm(kind, **changes)
    read = loaded(tmp_path / "m.gguf", lm, keys=keys)
    torch.testing.assert_close(logits(read), logits(lm), atol=1e-4, rtol=1e-4)
    if changes:
        assert changes["rope_parameters"]["rope_type"] in model_info("receiver", read).loading["positions"]


def test_factors_of_each_frequency_are_applied(tmp_path: Path) -> None:
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    lm = random_lm("llama", **rope("llama3", **llama3, original_max_position_embeddings=SHORT))
    plain = THETA ** -(torch.arange(0, 8, 2) / 8)
    factors = plain / lm.model.model.rotary_emb.inv_freq
    assert not torch.equal(factors, torch.ones(4))
    read = loaded(tmp_path / "m.gguf", lm, tensors={"rope_freqs.weight": factors})
    torch.testing.assert_close(logits(read), logits(lm), atol=1e-4, rtol=1e-4)
    assert "rope_freqs.weight" in read.notes["positions"]


def test_frequencies_keep_their_precision_in_16_bits(tmp_path: Path) -> None:
    lm = shared_lm("qwen2")
    write_gguf(tmp_path / "m.gguf", lm)
    read = load(str(tmp_path / "m.gguf"), device="cpu", dtype="bfloat16")
    assert {value.dtype for value in read.model.parameters()} == {torch.bfloat16}
    assert torch.equal(read.model.model.rotary_emb.inv_freq, lm.model.model.rotary_emb.inv_freq)


GEMMA = {"num_hidden_layers": 18, "head_dim": 128, "layer_types": None, "query_pre_attn_scalar": 128}


def gemma(**changes: Any) -> LM:
    full, local = rope("default")["rope_parameters"], rope("default")["rope_parameters"]
    both = {"full_attention": {**full, **changes.pop("full", {})}, "sliding_attention": local}
    return random_lm("gemma3", **{**GEMMA, "rope_parameters": both, **changes})


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {}),
        ({"full": {"rope_type": "linear", "factor": 8.0}}, scaled("linear", 8.0)),
        ({"query_pre_attn_scalar": 16}, {".attention.scale": 0.25}),
        ({"num_hidden_layers": 62, "head_dim": 8, "query_pre_attn_scalar": 8}, {}),
        ({"final_logit_softcapping": 3.0}, {".final_logit_softcapping": 3.0}),
    ],
)
def test_windows_scales_and_two_kinds_of_positions_of_gemma_3(
    tmp_path: Path, changes: dict[str, Any], keys: dict[str, Any]
) -> None:
    lm = gemma(**changes)
    read = loaded(tmp_path / "m.gguf", lm, keys=keys)
    assert read.config.layer_types == lm.config.layer_types
    torch.testing.assert_close(logits(read), logits(lm), atol=1e-4, rtol=1e-4)
    assert {"query_scale", "sliding_window"} <= read.notes.keys()


def test_a_gemma_of_unknown_query_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no gemma3\.attention\.scale.*3 layers"):
        loaded(tmp_path / "m.gguf", shared_lm("gemma3"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another scaling": ({"keys": scaled("su")}, r"qwen2\.rope\.scaling\.type is 'su'"),
    "yarn with a multiplier": (
        {"keys": scaled("yarn", **{".rope.scaling.yarn_log_multiplier": 0.1})},
        r"qwen2\.rope\.scaling\.yarn_log_multiplier",
    ),
    "scaled twice": (
        {"keys": scaled("linear"), "tensors": {"rope_freqs.weight": torch.tensor(FACTORS)}},
        "scales positions twice",
    ),
    "factors of another width": ({"tensors": {"rope_freqs.weight": torch.ones(3)}}, "has 3 factors"),
    "half of the factors": ({"tensors": {"rope_factors_long.weight": torch.ones(4)}}, r"rope_factors_short\.weight"),
    "part of the head rotated": ({"keys": {".rope.dimension_count": 4}}, r"rope\.dimension_count is 4"),
    "a window": ({"keys": {".attention.sliding_window": 8}}, r"qwen2\.attention\.sliding_window asks for a window"),
    "a key that nobody knows": ({"keys": {".attention.temperature": 2.0}}, r"qwen2\.attention\.temperature is 2\.0"),
    "soft capping": ({"keys": {".final_logit_softcapping": 30.0}}, r"qwen2\.final_logit_softcapping is 30"),
    "no causal attention": ({"keys": {".attention.causal": False}}, "only causal"),
    "layers of different widths": (
        {"keys": {".feed_forward_length": [48, 48, 32]}},
        "differs from layer to layer",
    ),
    "a layer fewer": ({"keys": {".block_count": 2}}, r"12 tensors of the file are left over: 'blk\.2\."),
    "a tensor that nobody knows": ({"tensors": {"blk.0.attn_q_norm.weight": torch.ones(8)}}, r"'blk\.0\.attn_q_norm"),
    "one of several parts": ({"keys": {"split.count": 3}}, "one of 3 parts"),
    "an adapter": ({"keys": {"general.type": "adapter"}}, r"no model but 'adapter' \(general\.type\)"),
    "an unknown way to split": ({"pre": "klingon"}, r"tokenizer\.ggml\.pre is 'klingon'"),
    "no way to split": ({"pre": None}, r"tokenizer\.ggml\.pre is missing"),
    "words marked behind": ({"keys": {"tokenizer.ggml.treat_whitespace_as_suffix": True}}, "changes the text"),
    "text made lower case": ({"keys": {"tokenizer.ggml.normalizer.lowercase": True}}, "changes the text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    more, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        loaded(tmp_path / "m.gguf", shared_lm("qwen2"), **more)


def test_every_end_that_a_file_names_is_a_stop_and_in_the_record(tmp_path: Path) -> None:
    lm = shared_lm("qwen2")
    read = loaded(tmp_path / "m.gguf", lm, keys={"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 7})
    assert read.stop_ids == {*lm.stop_ids, 5, 7}
    tokens = model_info("receiver", read).stop_tokens
    assert sorted(tokens.values()) == sorted(read.stop_ids)
    assert tokens[lm.tokenizer.eos_token] == lm.tokenizer.eos_token_id


def test_the_token_that_closes_a_turn_in_the_template_is_a_stop(tmp_path: Path) -> None:
    lm = random_lm("qwen2")
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<|closed|>"]})
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    lm.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}\n<|closed|>"
        "{% endif %}\n{% endfor %}"
    )
    closing = lm.tokenizer.convert_tokens_to_ids("<|closed|>")
    assert closing not in lm.stop_ids
    assert loaded(tmp_path / "m.gguf", lm).stop_ids == {*lm.stop_ids, closing}


@pytest.mark.parametrize(("pre", "pieces"), [("gpt-2", ["2026"]), ("smollm", ["2", "0", "2", "6"])])
def test_text_is_split_as_the_file_says(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    read = loaded(tmp_path / "m.gguf", shared_lm("llama"), pre=pre)
    split = read.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("2026")
    assert [text for text, _ in split] == pieces
    assert model_info("receiver", read).loading["pre_tokenizer"] == pre


def test_llama_3_takes_words_of_its_vocabulary_whole(tmp_path: Path) -> None:
    read = loaded(tmp_path / "m.gguf", shared_lm("llama"), pre="llama-bpe")
    assert read.tokenizer.backend_tokenizer.model.ignore_merges
    assert not tokenizer().backend_tokenizer.model.ignore_merges


def test_keys_that_change_nothing_here_are_named_in_the_record(tmp_path: Path) -> None:
    read = loaded(tmp_path / "m.gguf", shared_lm("qwen2"), keys={"vendor.mood": "calm", "general.name": "tiny"})
    assert model_info("receiver", read).loading["unread_keys"] == "vendor.mood"
