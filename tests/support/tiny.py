"""Random models of a few kilobytes with real architectures, and fusers between them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from harness.channels.c2c import CacheToCache, Link
from harness.conformance.models import random_fuser
from harness.models.lm import LM
from harness.models.loading import load, wrap

GOLDEN = Path(__file__).parents[1] / "golden"
OURS, FOREIGN = "same_tokenizer/receiver", "cross_tokenizer/sharer"
WINDOW = 8
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.25,
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
_KINDS: dict[str, type[PretrainedConfig]] = {
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "gemma3": Gemma3TextConfig,
}
_EXTRA: dict[str, dict[str, Any]] = {
    "gemma3": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}
KINDS = tuple(_KINDS)


@functools.cache
def golden_lm(name: str) -> LM:
    """One of the golden models; shared, so nobody may change it."""
    return load(str(GOLDEN / name), device="cpu", dtype="float32")


def tokenizer(name: str = OURS) -> Any:
    """A fresh tokenizer of a golden model."""
    return AutoTokenizer.from_pretrained(GOLDEN / name)


def random_config(kind: str, words: Any, **changes: Any) -> PretrainedConfig:
    """The configuration of a tiny model whose vocabulary is that of the tokenizer `words`."""
    values = {**_SHAPE, **_EXTRA.get(kind, {}), **changes}
    ids = {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return _KINDS[kind](**ids, **values)


def random_lm(kind: str = "qwen3", *, seed: int = 0, words: str = OURS, attention: str = "sdpa", **changes: Any) -> LM:
    """A model with random weights, large enough that its answers depend on its prompt."""
    torch.manual_seed(seed)
    spoken = tokenizer(words)
    config = random_config(kind, spoken, **changes)
    return wrap(AutoModelForCausalLM.from_config(config, attn_implementation=attention), spoken)


@functools.cache
def shared_lm(kind: str = "qwen3", seed: int = 0, words: str = OURS, attention: str = "sdpa") -> LM:
    """`random_lm`, built once; nobody may change it."""
    return random_lm(kind, seed=seed, words=words, attention=attention)


def fused(receiver: LM, *sharers: LM, mode: str = "sequential", alignment: str = "auto") -> CacheToCache:
    """A C2C channel with a random fuser for each sharer."""
    links = tuple(Link(s, random_fuser(receiver, s, seed=i)) for i, s in enumerate(sharers))
    return CacheToCache(receiver, links, mode, alignment)
