"""Attention in which the query heads of one KV head share a product, for transformers under the name ``grouped``.

Guarantees the numbers of transformers' eager attention up to rounding. Keys and values are never repeated for their
query heads, which on a CPU saves a copy of the cache in every layer, and in training the sum of its gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "grouped"


def register() -> None:
    """Makes the name known to transformers; a second call changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, grouped)
    AttentionMaskInterface.register(NAME, eager_mask)


def grouped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attends in transformers' calling convention.

    Args:
        module: the layer; its head width is the default of the scale.
        query: `[rows, heads, new, head_dim]`.
        key: `[rows, kv_heads, columns, head_dim]`.
        value: likewise.
        attention_mask: to be added to the scores, `[rows, 1, new, columns]`.
        scaling: of the scores; None for the usual one.
        dropout: of the weights, while training.
        softcap: bound of the scores, in Gemma 2's manner.

    Returns:
        `[rows, new, heads, head_dim]`, and no weights.
    """
    rows, heads, new, width = query.shape
    packed = query.reshape(rows, key.shape[1], -1, width)  # [rows, kv_heads, heads a group * new, head_dim]
    scores = torch.matmul(packed, key.transpose(2, 3)) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(rows, heads, new, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    mixed = torch.matmul(weights.view(rows, key.shape[1], -1, weights.shape[-1]), value)
    return mixed.view(rows, heads, new, -1).transpose(1, 2).contiguous(), None
