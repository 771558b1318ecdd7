"""One way of running a model on the next tokens of a batch, after any earlier tokens.

Guarantees that a row's numbers do not depend on the rows beside it: attention is masked by position, pads attend only
to themselves and no token attends to them. The vocabulary projection runs on the requested columns and on no other. The
work is counted in `Counters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from harness.errors import UserError
from harness.inference.attention_mask import MASKS, LayerMask, Visible, masked_by_layer, masking_by
from harness.inference.kv_cache import KVBuffer, SplitBuffer, SpreadBuffer
from harness.inference.single_rows import Reader
from harness.inference.types import Counters, ForwardCall, report
from harness.models.lm import LM, shard_group, shards_of

# Columns kept free behind a prompt, so that the usual answer or its options fit without copying the cache.
ANSWER_ROOM = 64


class FactorsChange(Exception):
    """An answer crosses the length at which a model changes its RoPE factors: an error of that question."""


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


def extend(
    lm: LM,
    buffer: KVBuffer,
    columns: Columns,
    counters: Counters,
    keep: int = 0,
    layer_mask: LayerMask | None = None,
) -> Tensor | None:
    """Runs the model on the next columns; their K and V are in the buffer afterwards.

    Args:
        lm: the model.
        buffer: the past of the batch, extended in place.
        columns: what comes next.
        counters: is charged for the call.
        keep: for how many of the last columns to compute logits; 0 leaves the vocabulary projection out.
        layer_mask: columns of the past that some layers may not attend to.

    Returns:
        Logits `[rows, keep, vocabulary]`, or None when `keep` is 0.

    Raises:
        UserError: the model or its attention implementation cannot be given a mask for each layer.
    """
    buffer.open(columns.positions, columns.real, columns.branch, columns.dense)
    alone = reads_alone(lm, buffer, columns)
    if layer_mask is not None:
        _check_masks_by_layer(lm, alone)
    if alone:
        return _reader(lm, counters).read(buffer, columns.ids, keep)
    return _call(lm, buffer, columns, counters, keep, layer_mask)


def _check_masks_by_layer(lm: LM, alone: bool) -> None:
    if not takes_masks(lm):
        raise UserError(
            f"Attention {lm.config._attn_implementation!r} takes no mask of its own for each layer; use --attention "
            "sdpa or eager."
        )
    if alone:
        raise UserError(
            f"{lm.reference.text} is right only where rows are read one by one, so columns cannot be hidden from "
            "single layers; use another model."
        )


def reads_alone(lm: LM, buffer: KVBuffer, columns: Columns) -> bool:
    """Whether the newest columns have to be read row by row and option by option.

    Raises:
        FactorsChange: a row goes on, from its cache, past the length at which the model changes its RoPE factors.
    """
    together = lm.together
    if (buffer.branched and not together.branched) or (not buffer.dense and not together.padded):
        return True
    if together.factors_change is None:
        return False
    last = torch.where(columns.real, columns.positions, -1).amax(1)
    beyond = last >= together.factors_change
    past = torch.where(buffer.real[:, : buffer.past], buffer.positions[:, : buffer.past], -1)
    before = torch.nn.functional.pad(past, (1, 0), value=-1).amax(1)
    if bool((beyond & (before >= 0) & (before < together.factors_change)).any()):
        raise FactorsChange(
            f"The prompt ends before position {together.factors_change} and its answer after it, where the RoPE "
            f"factors of {lm.reference.text!r} change; what was read with other factors cannot be gone on from."
        )
    return bool(beyond.any() & (~beyond & (last >= 0)).any())


def _reader(lm: LM, counters: Counters) -> Reader:
    def call(own: KVBuffer, ids: Tensor, positions: Tensor, keep: int) -> Tensor | None:
        real = torch.ones_like(ids, dtype=torch.bool)
        own.open(positions, real, None, dense=True)
        columns = Columns(ids, positions, real, dense=True, tokens=ids.shape[1])
        return _call(lm, own, columns, counters, keep)

    return Reader(lm.reference.text, lambda columns: new_buffer(lm, 1, columns), call)


def _call(
    lm: LM, buffer: KVBuffer, columns: Columns, counters: Counters, keep: int, layer_mask: LayerMask | None = None
) -> Tensor | None:
    counters.forwards += 1
    report(ForwardCall(lm, buffer.rows, columns.ids.shape[1], buffer.past, keep))
    arguments = {
        "input_ids": columns.ids,
        "position_ids": columns.positions,
        # Flash attention takes neither branches nor masks of its own, only `[rows, columns so far]`.
        "attention_mask": None if buffer.dense or takes_masks(lm) else buffer.real[:, : buffer.length].long(),
        lm.cache_argument: buffer.view,
        "use_cache": True,
    }
    single_on_cpu = columns.positions.shape[1] == 1 and lm.device.type == "cpu"
    pack_heads = single_on_cpu and lm.config._attn_implementation == "sdpa"
    by_position = masking_by(visible_columns(lm, buffer, columns, layer_mask), pack_heads=pack_heads)
    with by_position, masked_by_layer(lm.model, layer_mask, buffer.past, lm.reference.text):
        if keep == 0:
            _fill(lm, buffer, arguments)
            return None
        return _with_logits(lm, arguments, keep)


class CacheFilled(Exception):
    """Ends a forward call of which only the cache is wanted: the last layer has stored its keys and values."""


class _LastLayer(DynamicLayer):
    """The last layer of a cache in a call that is over once its keys and values are stored."""

    def __init__(self, layer: CacheLayerMixin) -> None:
        super().__init__()
        self._layer = layer
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Stores the new columns; there is nothing left to do for the call."""
        self._layer.update(key_states, value_states)
        raise CacheFilled

    def get_seq_length(self) -> int:
        """Columns before the running forward call."""
        return int(self._layer.get_seq_length())

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Returns (key columns, offset) for transformers' own mask."""
        columns, offset = self._layer.get_mask_sizes(query_length)
        return int(columns), int(offset)


def _fill(lm: LM, buffer: KVBuffer, arguments: Mapping[str, Any]) -> None:
    # What the last layer does behind its K and V reaches no cache. No module can be told to leave that out in a way
    # that holds for every architecture, so the call ends by an exception. Where a graph is made the call may run again,
    # and a model spread over devices moves its weights when a layer returns: there it runs to its end.
    if lm.spread or torch.is_grad_enabled():
        lm.model.base_model(**arguments)
        return
    layers = list(buffer.view.layers)
    filling = Cache(layers=[*layers[:-1], _LastLayer(layers[-1])])
    with suppress(CacheFilled):
        lm.model.base_model(**{**arguments, lm.cache_argument: filling})


def _with_logits(lm: LM, arguments: Mapping[str, Any], keep: int) -> Tensor:
    head = lm.model.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(_packed)
    try:
        logits: Tensor = lm.model(**arguments, logits_to_keep=keep).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits[:, -keep:]  # an architecture may know no `logits_to_keep`


def _packed(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # The last columns of a long prompt lie far apart. Left so, each row gets a product of its own with the whole
    # vocabulary, on CPU in bfloat16 by a routine sixty times slower.
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


def visible_columns(lm: LM, buffer: KVBuffer, columns: Columns, layer_mask: LayerMask | None = None) -> Visible | None:
    """What the newest columns may attend to; None where column numbers are positions, or nobody asks for a mask."""
    if not takes_masks(lm) or (buffer.dense and not buffer.branched and layer_mask is None):
        return None
    total = buffer.length
    allowed = buffer.real[:, None, :total].expand(-1, columns.positions.shape[1], -1)
    if columns.branch is not None:
        past = buffer.branch[:, None, :total]
        allowed = allowed & ((past == 0) | (past == columns.branch[:, :, None]))
    return Visible(columns.positions, buffer.positions[:, :total], allowed)


def takes_masks(lm: LM) -> bool:
    """Whether the attention implementation accepts a mask of our own making."""
    return lm.config._attn_implementation in MASKS
