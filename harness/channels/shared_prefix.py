"""Places keys and values that one model has read before another model's prompt, in the chosen layers.

For channels without a fuser between models of one cache shape. The reader's positions continue behind the prefix;
layers that are not chosen see the reader's own tokens alone.

Usage:
    check_same_shape(receiver, sharer)
    parts, lengths = read_cache(sharer, prompts, layers, work)
    context = prefill_behind(receiver, parts, lengths, layers, own_prompts, work)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from harness.channels.interface import Unsuitable
from harness.channels.prompt_layout import index_pair, token_index
from harness.inference.attention_mask import LayerMask
from harness.inference.forward import ANSWER_ROOM, extend, left_padded, new_buffer
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import CallStats, Context
from harness.models.chat import Encoded
from harness.models.lm import LM, kv_shape

_KINDS = (0, 1)  # keys, values


def check_same_shape(receiver: LM, sharer: LM) -> None:
    """Makes sure that one model can read the other's keys and values.

    Raises:
        Unsuitable: their caches have different shapes.
    """
    own, other = kv_shape(receiver.model.config), kv_shape(sharer.model.config)
    if own != other:
        raise Unsuitable(
            f"it needs two models of one cache shape; the receiver has {own.layers} layers of {own.heads} x "
            f"{own.head_dim}, the sharer {other.layers} of {other.heads} x {other.head_dim}"
        )


@torch.no_grad()
def read_cache(
    lm: LM, prompts: Sequence[Encoded], layers: Collection[int], work: CallStats
) -> tuple[Tensor, tuple[int, ...]]:
    """Reads prompts and returns their keys and values in the chosen layers.

    Returns:
        `[2 * layers, tokens of all prompts, heads * head_dim]`, keys of ascending layers before values, with RoPE as
        the model has put it, and the tokens of each prompt.
    """
    rows = [prompt.ids for prompt in prompts]
    lengths = tuple(map(len, rows))
    work.cut_prompts += sum(prompt.dropped > 0 for prompt in prompts)
    columns = left_padded(rows, [0] * len(rows), lm)
    width = columns.ids.shape[1]
    buffer = new_buffer(lm, len(rows), width)
    extend(lm, buffer, columns, work.counters)
    work.counters.prompt_tokens += columns.tokens
    entries = index_pair([(kind, layer) for kind in _KINDS for layer in sorted(layers)], lm.device)
    offsets = [width - tokens for tokens in lengths]
    return buffer.gather(*entries, *token_index([((0, n),) for n in lengths], offsets, lm.device)), lengths


@torch.no_grad()
def prefill_behind(
    lm: LM,
    parts: Tensor,
    lengths: Sequence[int],
    layers: Collection[int],
    prompts: Sequence[Encoded],
    work: CallStats,
) -> Context:
    """Reads prompts behind keys and values that stand before them, as `read_cache` returns these.

    Args:
        lm: who reads.
        parts: `[2 * layers, tokens of all prefixes, heads * head_dim]`.
        lengths: tokens of each prefix; the prompt's first position is its prefix's length.
        layers: that see the prefix.
        prompts: one a prefix.
        work: is charged.
    """
    rows = [prompt.ids for prompt in prompts]
    columns = left_padded(rows, lengths, lm)
    buffer = new_buffer(lm, len(rows), max(lengths) + columns.ids.shape[1] + ANSWER_ROOM)
    hidden = _filled(lm, buffer, parts, lengths, layers)
    unseen = tuple(layer for layer in range(lm.n_layers) if layer not in layers)
    mask = LayerMask.prefix(unseen, hidden) if unseen and any(lengths) else None
    logits = extend(lm, buffer, columns, work.counters, keep=1, layer_mask=mask)
    assert logits is not None
    work.counters.prompt_tokens += columns.tokens
    work.cut_prompts += sum(prompt.dropped > 0 for prompt in prompts)
    own = tuple(map(len, rows))
    ends = tuple(before + tokens for before, tokens in zip(lengths, own, strict=True))
    options = tuple(prompt.options for prompt in prompts)
    return Context(lm, buffer, logits[:, -1], ends, own, options, layer_mask=mask)


def _filled(lm: LM, buffer: KVBuffer, parts: Tensor, lengths: Sequence[int], layers: Collection[int]) -> Tensor:
    """Puts the prefixes into an empty buffer, so that they end together; returns its columns, all True."""
    width, shape, device = max(lengths), kv_shape(lm.model.config), lm.device
    place = torch.arange(width, device=device) - torch.tensor([[width - n] for n in lengths], device=device)
    buffer.open(place.clamp(min=0), place >= 0, None, dense=min(lengths) == width)
    empty = torch.zeros(len(lengths), shape.heads, width, shape.head_dim, dtype=lm.dtype, device=device)
    for layer in range(lm.n_layers):
        buffer.write(layer, empty, empty)
    entries = index_pair([(kind, layer) for kind in _KINDS for layer in sorted(layers)], device)
    offsets = [width - tokens for tokens in lengths]
    buffer.put(*entries, *token_index([((0, n),) for n in lengths], offsets, device), parts.to(device))
    return torch.ones(len(lengths), width, dtype=torch.bool, device=device)
