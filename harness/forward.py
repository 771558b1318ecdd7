"""One way of running a model on the next tokens of a batch, whatever came before.

Guarantees that a row's numbers do not depend on the rows beside it: attention is masked by position, pads
attend only to themselves and nobody attends to them. The vocabulary projection runs on the columns that are
asked for and on no other. What is done is counted in `Counters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from harness.kv import CacheFilled, KVBuffer
from harness.models import LM
from harness.placement import shard_group, shards_of
from harness.split import SplitBuffer
from harness.spread import SpreadBuffer

# Columns kept free behind a prompt, so that the usual answer or its options fit without copying the cache.
ANSWER_ROOM = 64


@dataclass
class Counters:
    """Work done so far; has no noise, so it can be asserted where seconds cannot.

    Attributes:
        forwards: calls of a model.
        prompt_tokens: real tokens that were prefilled, option tokens included.
        decoded_tokens: tokens generated.
        fused_tokens: tokens whose cache entries were changed.
        bytes_moved: bytes that crossed from sharer to receiver.
        host_syncs: times that the host waited for a result of the device.
    """

    forwards: int = 0
    prompt_tokens: int = 0
    decoded_tokens: int = 0
    fused_tokens: int = 0
    bytes_moved: int = 0
    host_syncs: int = 0

    def as_dict(self) -> dict[str, int]:
        """Returns the counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def add(self, other: Counters) -> None:
        """Adds another's counts to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass(frozen=True)
class Columns:
    """The next columns of a batch, `[rows, new]` each.

    Attributes:
        ids: token ids; anything where `real` is False.
        positions: position ids.
        real: False for pads.
        dense: no pads at all (known on the host, so that nobody has to ask the device).
        tokens: how many are real.
        branch: see `KVBuffer`; None for the common line.
        owned: True where a column belongs to its row's prompt, pads inside the prompt included.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    dense: bool
    tokens: int
    branch: Tensor | None = None
    owned: Tensor | None = None


def left_padded(
    rows: Sequence[Sequence[int]], starts: Sequence[int], lm: LM, real: Sequence[Sequence[bool]] | None = None
) -> Columns:
    """Lays rows of different lengths side by side so that they end together.

    Args:
        rows: token ids, a row a sequence; a row may be empty.
        starts: position of each row's first token.
        lm: the model that will read them.
        real: False for pads inside the rows; None means that every token is real.
    """
    width = max(map(len, rows))
    ids = [[lm.pad_id] * (width - len(r)) + list(r) for r in rows]
    positions = [[0] * (width - len(r)) + list(range(s, s + len(r))) for r, s in zip(rows, starts, strict=True)]
    inside = real or [[True] * len(r) for r in rows]
    flags = [[False] * (width - len(r)) + list(r) for r in inside]
    owned = [[False] * (width - len(r)) + [True] * len(r) for r in rows]
    tokens = sum(map(sum, flags))
    return Columns(
        ids=torch.tensor(ids, device=lm.device),
        positions=torch.tensor(positions, device=lm.device),
        real=torch.tensor(flags, device=lm.device),
        dense=tokens == width * len(rows),
        tokens=tokens,
        owned=torch.tensor(owned, device=lm.device),
    )


def new_buffer(lm: LM, rows: int, capacity: int) -> KVBuffer:
    """An empty cache for `rows` sequences of the model."""
    if shards_of(lm.model) > 1:
        return SplitBuffer(rows, lm.n_layers, lm.device, capacity, shard_group(lm.model))
    kind = SpreadBuffer if lm.spread else KVBuffer
    return kind(rows, lm.n_layers, lm.device, capacity)


def extend(lm: LM, buffer: KVBuffer, columns: Columns, counters: Counters, keep: int = 0) -> Tensor | None:
    """Runs the model on the next columns; their K and V are in the buffer afterwards.

    Args:
        lm: the model.
        buffer: the past of the batch, extended in place.
        columns: what comes next.
        counters: is charged for the call.
        keep: for how many of the last columns to compute logits; 0 leaves the vocabulary projection out.

    Returns:
        Logits `[rows, keep, vocabulary]`, or None when `keep` is 0.
    """
    buffer.open(columns.positions, columns.real, columns.branch, columns.dense)
    counters.forwards += 1
    arguments = {
        "input_ids": columns.ids,
        "position_ids": columns.positions,
        "attention_mask": attention_mask(lm, buffer, columns),
        lm.cache_argument: buffer.view,
        "use_cache": True,
    }
    if keep == 0:
        _fill(lm, buffer, arguments)
        return None
    return _with_logits(lm, arguments, keep)


def _fill(lm: LM, buffer: KVBuffer, arguments: Mapping[str, Any]) -> None:
    # What the last layer does behind its K and V reaches no cache. A model spread over devices moves its weights
    # when a layer returns, so it is not interrupted.
    buffer.cache_only = not lm.spread
    try:
        lm.model.base_model(**arguments)
    except CacheFilled:
        pass
    finally:
        buffer.cache_only = False


def _with_logits(lm: LM, arguments: Mapping[str, Any], keep: int) -> Tensor:
    head = lm.model.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(_packed)
    try:
        logits: Tensor = lm.model(**arguments, logits_to_keep=keep).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits


def _packed(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # The last columns of a long prompt lie far apart. Left so, each row gets a product of its own with the whole
    # vocabulary, on CPU in bfloat16 by a routine sixty times slower.
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


def attention_mask(lm: LM, buffer: KVBuffer, columns: Columns) -> Tensor | dict[str, Tensor] | None:
    """Who may look at whom, `[rows, 1, new, columns so far]`; None where plain causal attention is right and no slower.

    Flash attention knows neither branches nor masks of its own: it gets `[rows, columns so far]`.
    """
    if buffer.dense and not buffer.branched:
        return _all_seen(buffer) if _better_packed(lm, columns) else None
    real = buffer.real[:, : buffer.length]
    if not takes_masks(lm):
        return real.long()
    seen = _visible(buffer, columns, real)
    if lm.window is None:
        return _in_form(lm, seen)
    keys = buffer.positions[:, None, : buffer.length]
    near = seen & ((columns.positions[:, :, None] - keys) < lm.window)
    masks = {"full_attention": _in_form(lm, seen), "sliding_attention": _in_form(lm, near)}
    return masks if hasattr(lm.config, "layer_types") else masks["sliding_attention"]


def _better_packed(lm: LM, columns: Columns) -> bool:
    # Where a mask comes with a single token, transformers lets the query heads of one KV head share a product. The
    # CPU's kernel for grouped heads, chosen without a mask, takes five times as long in bfloat16.
    single = columns.positions.shape[1] == 1
    return single and lm.window is None and lm.device.type == "cpu" and lm.config._attn_implementation == "sdpa"


def _all_seen(buffer: KVBuffer) -> Tensor:
    return torch.ones(1, dtype=torch.bool, device=buffer.device).expand(buffer.rows, 1, 1, buffer.length)


def takes_masks(lm: LM) -> bool:
    """Whether the attention implementation accepts a mask of our own making."""
    return lm.config._attn_implementation in ("sdpa", "eager", "grouped")


def _visible(buffer: KVBuffer, columns: Columns, real: Tensor) -> Tensor:
    total = buffer.length
    seen = real[:, None] & (buffer.positions[:, None, :total] <= columns.positions[:, :, None])
    if columns.branch is not None:
        past = buffer.branch[:, None, :total]
        seen &= (past == 0) | (past == columns.branch[:, :, None])
    return seen


def _in_form(lm: LM, seen: Tensor) -> Tensor:
    # A pad that sees nobody (within the window) would make its softmax NaN, so it may see itself.
    new, total = seen.shape[1:]
    own = torch.arange(total, device=seen.device) == torch.arange(total - new, total, device=seen.device)[:, None]
    mask = (seen | (own & ~seen.any(-1, keepdim=True)))[:, None]
    if lm.config._attn_implementation == "sdpa":
        return mask
    return torch.zeros_like(mask, dtype=lm.dtype).masked_fill_(~mask, torch.finfo(lm.dtype).min)
