"""A small copy of a model's configuration, and a model of it with random weights.

Guarantees every kind of layer of the original, in its order, with narrow matrices; windows, chunks and the original
length of a RoPE variant are cut to a few tokens, so that a sequence of `LENGTH` goes past all of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

LENGTH = 48
_WINDOW, _ORIGINAL = 8, 24
_VOCABULARY, _HEADS, _HEAD_DIM = 96, 4, 16
_LAYERS = 8  # at most
_WIDTH = _HEADS * _HEAD_DIM
# By the names of transformers' configurations; a number is only ever made smaller.
_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "word_embed_proj_dim", "embedding_size", "attention_hidden_size"), _WIDTH),
    **dict.fromkeys(("d_model", "ffn_dim", "d_ff", "dff", "n_inner", "emb_dim", "ffn_hidden_size"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "dense_intermediate_size", "d_inner"), _WIDTH),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "input_embedding_size", "output_embedding_size"), _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(
        ("shared_intermediate_size", "moe_shared_expert_intermediate_size", "hidden_size_per_layer_input"), 16
    ),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "swa_num_attention_heads"), _HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "attention_heads"), _HEADS),
    **dict.fromkeys(("head_dim", "swa_head_dim", "global_head_dim", "kv_channels", "d_head", "dim_head"), _HEAD_DIM),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_head_dim"), _HEAD_DIM),
    "kv_lora_rank": 2 * _HEAD_DIM,
    "rotary_dim": 8,
    "qk_head_dim": 2 * _HEAD_DIM,
    **dict.fromkeys(("q_lora_rank", "o_lora_rank", "laurel_rank", "query_pre_attn_scalar", "d_rel"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), _VOCABULARY),
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size", "attention_window_size"), _WINDOW),
    **dict.fromkeys(("attention_chunk_size", "local_attention_window_len"), _WINDOW),
    **dict.fromkeys(("local_attention",), 2 * _WINDOW),
    **dict.fromkeys(("encoder_layers", "max_window_layers", "index_n_heads", "moe_layer_end_index"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 2),
    **dict.fromkeys(("index_topk", "floor_scale", "log_scaling_n_floor"), _WINDOW),
    "original_max_position_embeddings": _ORIGINAL,
    "max_position_embeddings": 8 * LENGTH,
    "d_kv": _HEAD_DIM,
    # Tables of bytes, n-grams, shapes and sounds.
    **dict.fromkeys(("encoder_hash_byte_group_vocab", "ngram_vocab_size_base", "shape_vocab_size"), _VOCABULARY),
    **dict.fromkeys(("pronunciation_vocab_size", "make_ngram_vocab_size_divisible_by"), _VOCABULARY),
    **dict.fromkeys(("ple_embed_dim", "embedding_dim", "lru_width"), _WIDTH),
    "hidden_size_global": 2 * _WIDTH,
    **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 16),
    **dict.fromkeys(("num_layers_per_stack", "split_ngram_parts"), 2),
    # State space layers; their heads are counted by `_fit_state_space`.
    **dict.fromkeys(("mamba_d_head", "mamba_headdim", "mamba_head_dim", "mamba_d_state"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_dt_rank", "time_step_rank"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "expand": 1,
}
_KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "kv_n_heads",
    "swa_num_key_value_heads",
    "num_global_key_value_heads",
)
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id")


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns a small copy of a configuration, of one for several modalities with every part made small."""
    small = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            setattr(small, name, small_config(value))
    overrides = _overrides(small)
    chosen = _pick_layers(small, overrides)
    _narrow(small)
    _shorten(small)
    if overrides:
        small.per_layer_config = {i: _narrowed(overrides.get(layer, {})) for i, layer in enumerate(chosen)}
    return small


def _overrides(small: Any) -> dict[int, dict[str, Any]]:
    """Takes what differs by layer out of a copy, so that its common values can be read and set."""
    if not getattr(small, "is_heterogeneous", False):
        return {}
    found: dict[int, dict[str, Any]] = copy.deepcopy(small._heterogeneity_spec.per_layer_overrides)
    small.per_layer_config = None
    return found


def _narrowed(values: Mapping[str, Any]) -> dict[str, Any]:
    halved = dict.fromkeys(_KV_HEADS, _HEADS // 2)
    sizes = {**_SIZES, **halved}
    return {
        name: min(value, sizes[name]) if name in sizes and isinstance(value, int) else value
        for name, value in values.items()
    }


def small_model(architecture: Any, config: PreTrainedConfig, attention: str) -> Any:
    """Builds a model of `architecture` with random float32 weights, large enough that every part of it matters.

    Args:
        architecture: the class of the original.
        config: made by `small_config`.
        attention: the implementation in force.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture._from_config(copy.deepcopy(config), attn_implementation=attention, dtype=torch.float32)
        with torch.no_grad():
            for value in model.parameters():
                _draw(value)
    return model.eval().requires_grad_(False)


def _draw(value: nn.Parameter) -> None:
    if value.ndim < 2:  # biases, norms, sinks
        value.add_(0.2 * torch.randn_like(value))
    else:
        value.copy_(torch.randn_like(value) / math.sqrt(min(value.shape[-2:])))


def _pick_layers(config: Any, overrides: Mapping[int, Any]) -> list[int]:
    """Keeps as few layers as show every kind, in their order, and returns their numbers."""
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int) or count < 3:
        return list(range(count or 0))
    lists = {k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == count}
    kinds = [repr([overrides.get(i), *(values[i] for values in lists.values())]) for i in range(count)]
    chosen = sorted({kinds.index(kind) for kind in kinds})[:_LAYERS]
    if getattr(config, "num_kv_shared_layers", 0):
        chosen = list(range(count))  # which layers share is counted from the last one
    chosen = chosen if len(chosen) > 1 else [0, 1]
    try:
        config.num_hidden_layers = len(chosen)
    except NotImplementedError:  # of an encoder with a decoder, which count their layers apart
        return list(range(count))
    for name, values in lists.items():
        setattr(config, name, [values[i] for i in chosen])
    return chosen


def _narrow(config: Any) -> None:
    heads = getattr(config, "num_attention_heads", None)
    for name in _KV_HEADS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 1:
            setattr(config, name, _HEADS if value == heads else _HEADS // 2)
    for name, size in _SIZES.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > size:
            setattr(config, name, size)
        elif isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value):
            setattr(config, name, [min(v, size) for v in value])
    _fit_state_space(config)
    for number, name in enumerate(_SPECIAL):
        value = getattr(config, name, None)
        if value is not None:
            setattr(config, name, number)


def _fit_state_space(config: Any) -> None:
    """Heads times their width have to be the width of a state space layer."""
    for heads, width in (("mamba_n_heads", "mamba_d_head"), ("n_mamba_heads", "mamba_headdim")):
        if not isinstance(getattr(config, width, None), int) or not isinstance(getattr(config, heads, None), int):
            continue
        setattr(config, heads, config.mamba_expand * config.hidden_size // getattr(config, width))
        if getattr(config, "mamba_d_ssm", None):
            config.mamba_d_ssm = getattr(config, heads) * getattr(config, width)


def _shorten(config: Any) -> None:
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, Mapping):
        nested = [value for value in rope.values() if isinstance(value, Mapping)]
        for one in nested or [rope]:
            _shorten_rope(one, config)


def _shorten_rope(rope: Any, config: Any) -> None:
    if rope.get("original_max_position_embeddings"):
        rope["original_max_position_embeddings"] = _ORIGINAL
    if "partial_rotary_factor" in rope and hasattr(config, "qk_rope_head_dim"):
        rope["partial_rotary_factor"] = 1.0  # the rotated part has a width of its own
    half = int(_HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
    for name in ("short_factor", "long_factor"):
        if name in rope:
            rope[name] = [*rope[name], *[rope[name][-1]] * half][:half]
    if "mrope_section" in rope:
        rope["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
