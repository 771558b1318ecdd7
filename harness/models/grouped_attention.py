"""Attention in which the query heads of one KV head share a product, for transformers under the name ``grouped``.

Guarantees the numbers of transformers' eager attention up to rounding, or a refusal: an argument that it does not know
might change them. Keys and values are never repeated for their query heads, which on a CPU saves a copy of the cache in
every layer, and in training the sum of its gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError

# What transformers hands to every attention function and eager attention does not read: the mask says it already
# (`sliding_window`, `is_causal`, `position_ids`), or it chooses outputs and not numbers.
_WITHOUT_EFFECT = frozenset(
    {
        *("sliding_window", "is_causal", "position_ids", "cache_position", "position_embeddings", "seq_idx"),
        *("cache", "past_key_values", "use_cache", "return_dict", "deterministic", "num_items_in_batch"),
        *("output_attentions", "output_hidden_states", "output_router_logits", "logits_to_keep"),
        *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"),
    }
)


def register() -> None:
    """Makes the name known to transformers; a second call changes nothing.

    Its masks are those of `harness.inference.attention_mask`.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(GROUPED, grouped_attention)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attends in transformers' calling convention.

    Args:
        module: the layer; its head width is the default of the scale.
        query: `[rows, heads, new, head_dim]`.
        key: `[rows, kv_heads, columns, head_dim]`.
        value: likewise.
        attention_mask: to be added to the scores, `[rows, 1, new, columns]`.
        others: `scaling` of the scores (None for the usual one), `dropout` of the weights while training, `softcap` as
            bound of the scores in Gemma 2's manner, `s_aux` as sink logits, one a head; see `_WITHOUT_EFFECT`.

    Returns:
        `[rows, new, heads, head_dim]`, and no weights.

    Raises:
        UserError: the model hands over an argument that is not known here.
    """
    scaling, dropout, softcap, sinks = (others.pop(name, None) for name in ("scaling", "dropout", "softcap", "s_aux"))
    _refuse_unknown(module, others)
    rows, heads, new, width = query.shape
    packed = query.reshape(rows, key.shape[1], -1, width)  # [rows, kv_heads, heads a group * new, head_dim]
    scores = torch.matmul(packed, key.transpose(2, 3)) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(rows, heads, new, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    weights = _softmax(scores, sinks).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout or 0.0, module.training)
    mixed = torch.matmul(weights.view(rows, key.shape[1], -1, weights.shape[-1]), value)
    return mixed.view(rows, heads, new, -1).transpose(1, 2).contiguous(), None


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Weights in float32; a sink is a logit that takes its share and gives no value."""
    if sinks is None:
        return nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
    logits = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return nn.functional.softmax(torch.cat([scores, logits], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]


def _refuse_unknown(module: nn.Module, others: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT)
    if unknown:
        raise UserError(
            f"--attention {GROUPED} does not know the argument {unknown[0]!r} that {type(module).__name__} hands "
            "to its attention; use --attention eager."
        )


GROUPED = "grouped"
