"""The loss of a batch through the cache channel with the graph kept, and the fuser as it is trained.

Guarantees the steps, masks, positions and fusion of `CacheToCache` itself, without approximation, for pairs of one
vocabulary and aligned ones, several sharers and several turns: a later stretch of the receiver reads the fused cache of
the earlier ones. Neither model's prompt pass builds a graph before the first fused token. Only the fusers are
parameters; the models are held beside them, frozen and in inference mode, and are neither broadcast nor saved.

The cache has the numbers of `KVBuffer`. Gradients flow from later reads through what was fused, and a forward call may
run again (gradient checkpointing) with the past it saw the first time, at the price of a copy of the cache each. A
fuser computes in chunks of tokens, in mixed precision; recomputation meets the same random numbers and chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, DynamicLayer

from harness.channels.c2c import CacheToCache, Link
from harness.channels.messages import TensorMessage
from harness.channels.prompt_layout import Span, spans_within, steps_of
from harness.fusers.interface import FuserModule
from harness.inference.forward import Columns, extend
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import CallStats
from harness.models.lm import DTYPES, LM
from harness.training.checkpoints import load_fusers, save_fusers
from harness.training.recipe import Recipe

if TYPE_CHECKING:
    from harness.training.dataloader import Lesson


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed over `[tokens, vocabulary]`, in float32 at least, in nats."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="sum")


def zero_loss(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The loss of no lessons: a zero that every process can still differentiate."""
    return torch.stack([value.sum() for value in parameters]).sum() * 0.0


class GraphBuffer(KVBuffer):
    """Keys and values of a batch, joined anew after every forward call and never edited once one has read them."""

    by_row = False
    _call: _Call | None = None

    def open(self, positions: Tensor, real: Tensor, branch: Tensor | None, dense: bool) -> None:
        """Declares the next columns, each `[rows, new]`; see `KVBuffer.open`."""
        self._settle()
        super().open(positions, real, branch, dense)
        self._call = _Call(self.data, self.past, self.n_layers)
        self.view = Cache(layers=[_GraphLayer(self._call, layer) for layer in range(self.n_layers)])

    def fill(self, columns: Columns, data: Tensor) -> None:
        """Takes the first columns from an earlier run, `[2, layers, rows, heads, new, head_dim]`."""
        super().open(columns.positions, columns.real, None, columns.dense)
        self.data = data

    def gather(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See `KVBuffer.gather`."""
        self._settle()
        return super().gather(kind, layer, rows, columns)

    def put(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """See `KVBuffer.put`; in place, because what is settled is a tensor of its own that no graph has saved."""
        self._settle()
        super().put(kind, layer, rows, columns, values)

    def settled(self) -> Tensor:
        """Everything so far, `[2, layers, rows, heads, columns, head_dim]`."""
        self._settle()
        assert self.data is not None
        return self.data

    def _settle(self) -> None:
        if self._call is not None:
            self.data, self._call = self._call.joined(), None


class _Call:
    """One forward call: the past it reads and the keys and values it made."""

    def __init__(self, past: Tensor | None, length: int, n_layers: int) -> None:
        self.past, self.length = past, length
        # One unbind, because the gradient of single picks would be a whole cache of zeros each.
        self.layers = None if past is None else [kind.unbind(0) for kind in past.unbind(0)]
        self.made: list[tuple[Tensor, Tensor] | None] = [None] * n_layers
        self.done = False

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if not self.done:
            self.made[layer] = keys, values
        if self.layers is None:
            return keys, values
        before = self.layers[0][layer], self.layers[1][layer]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def joined(self) -> Tensor:
        pairs = [pair for pair in self.made if pair is not None]
        made = torch.stack([torch.stack(kind) for kind in zip(*pairs, strict=True)])
        self.made, self.done = [], True
        return made if self.past is None else torch.cat([self.past, made], dim=4)


class _GraphLayer(DynamicLayer):
    """One layer's window on one forward call, in the shape that transformers expects of a cache layer."""

    def __init__(self, call: _Call, layer: int) -> None:
        super().__init__()
        self.call, self.layer = call, layer
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Returns the past and the new columns; running it again changes nothing."""
        return self.call.update(self.layer, key_states, value_states)

    def get_seq_length(self) -> int:
        """Columns before this forward call."""
        return self.call.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Returns (key columns, offset) for transformers' own mask."""
        new = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        return self.call.length + new, 0


CHUNK_BYTES = 2**30


@dataclass(frozen=True)
class Computing:
    """How the delta of a fuser with float32 master weights is computed while it is trained.

    Attributes:
        recompute: computes activations again in the backward pass instead of keeping them.
        product_dtype: of the matrix products; None for that of the weights.
    """

    recompute: bool = False
    product_dtype: torch.dtype | None = None


def trained_delta(
    fuser: FuserModule, sharer: Tensor, receiver: Tensor, entries: Sequence[int], how: Computing
) -> Tensor:
    """Returns `fuser(sharer, receiver, entries)`, see `FuserModule.forward`, with one token dimension."""
    if not fuser.training:
        evaluated: Tensor = fuser(sharer, receiver, entries)
        return evaluated
    step = fuser.tokens_per_chunk(receiver.shape[0], CHUNK_BYTES)
    with torch.autocast(receiver.device.type, how.product_dtype, enabled=how.product_dtype is not None):
        parts = [
            _chunk(fuser, theirs, ours, entries, how.recompute)
            for theirs, ours in zip(sharer.split(step, 1), receiver.split(step, 1), strict=True)
        ]
    return torch.cat(parts, dim=1)


def _chunk(fuser: FuserModule, sharer: Tensor, receiver: Tensor, entries: Sequence[int], recompute: bool) -> Tensor:
    if not recompute:
        return fuser(sharer, receiver, entries)  # type: ignore[no-any-return]
    # The caller may add to `receiver` in place before it is read again.
    added: Tensor = checkpoint(fuser, sharer, receiver.clone(), entries, use_reentrant=False)
    return added


IGNORED = -100

KINDS = {"kv": (0, 1), "k": (0,), "v": (1,)}


@dataclass(frozen=True, eq=False)
class TrainedLink(Link):
    """A sharer whose fuser is trained: every entry of the chosen kinds crosses, open or not."""

    kinds: tuple[int, ...] = (0, 1)
    computing: Computing = field(default_factory=Computing)

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Entries that are fused."""
        return self.fuser.all_entries(self.kinds)

    def delta(self, sharer: Tensor, receiver: Tensor) -> Tensor:
        """See `Link.delta`."""
        return trained_delta(self.fuser, sharer, receiver, self.entries, self.computing)


class Kept(NamedTuple):
    """What the frozen models read from one prompt.

    Attributes:
        parts: of every sharer, `[sent entries, fused tokens, heads * head_dim]`.
        clean: the receiver's own cache up to its first fused stretch's end, `[2, layers, 1, heads, tokens, head_dim]`.
    """

    parts: tuple[Tensor, ...]
    clean: Tensor


class Predicted(NamedTuple):
    """Logits `[tokens, vocabulary]` and the ids `[tokens]` that they should have predicted."""

    logits: Tensor
    targets: Tensor


class GraphChannel(CacheToCache):
    """A receiver and its sharers under training."""

    @torch.no_grad()
    def keep(self, lesson: Lesson) -> Kept:
        """Reads one prompt alone, so that the result does not depend on what else is in a batch."""
        work = CallStats()
        parts = tuple(self._arrived(number, [lesson], work) for number in range(len(self.links)))
        spans = [(0, lesson.cuts[1])]
        buffer = GraphBuffer(1, self.answers.n_layers, self.answers.device, lesson.cuts[1])
        extend(self.answers, buffer, self._columns([lesson], spans), work.counters)
        return Kept(parts, buffer.settled())

    def predictions(self, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> list[Predicted]:
        """Reads prompts and responses and returns what was predicted for every token of the responses.

        Args:
            lessons: of one batch.
            kept: what `keep` returned for them; None reads the prompts now.
        """
        message = self._message(lessons, kept)
        steps = steps_of(lessons, fusing=True)
        width = sum(max(b - a for a, b in step) for step in steps)
        buffer = GraphBuffer(len(lessons), self.answers.n_layers, self.answers.device, width)
        found: list[Predicted] = []
        owned: list[Tensor] = []
        work = CallStats()
        for number, spans in enumerate(steps):
            columns = self._columns(lessons, spans)
            targets = _targets(lessons, spans, columns.ids)
            if number == len(steps) - 1 and any(lesson.padded for lesson in lessons):
                buffer.reveal(torch.cat(owned, 1), dense=False)
            if number == 0 and kept is not None and all(a == 0 and b > 0 for a, b in spans):
                buffer.fill(columns, _side_by_side([k.clean for k in kept]))
            else:
                logits = extend(self.answers, buffer, columns, work.counters, keep=targets.shape[1])
                found += [] if logits is None else [_picked(logits, targets)]
            assert columns.owned is not None
            owned.append(columns.owned)
            if any(spans_within(lesson.fused, span) for lesson, span in zip(lessons, spans, strict=True)):
                offsets = [buffer.length - b for _, b in spans]
                self._fuse(buffer, lessons, spans, offsets, message, work)
        return found

    def _arrived(self, number: int, lessons: Sequence[Lesson], work: CallStats) -> Tensor:
        return self._share(number, lessons, work).to(self.answers.device)

    @torch.no_grad()
    def _message(self, lessons: Sequence[Lesson], kept: Sequence[Kept] | None) -> TensorMessage:
        lengths = tuple(lesson.n_fused for lesson in lessons)
        numbers = range(len(self.links))
        if kept is None:
            return TensorMessage(tuple(self._arrived(number, lessons, CallStats()) for number in numbers), lengths)
        device = self.answers.device
        return TensorMessage(tuple(torch.cat([k.parts[i].to(device) for k in kept], dim=1) for i in numbers), lengths)


def _targets(lessons: Sequence[Lesson], spans: Sequence[Span], ids: Tensor) -> Tensor:
    """What the last columns of a step are to predict, `[rows, as many as any row needs]`, `IGNORED` elsewhere."""
    rows = []
    for lesson, (a, b) in zip(lessons, spans, strict=True):
        first = lesson.prompt_length - 1  # this column predicts the response's first token
        rows.append(lesson.response[max(a - first, 0) : max(b - first, 0)])
    wide = max(map(len, rows))
    return torch.tensor([[IGNORED] * (wide - len(row)) + list(row) for row in rows], device=ids.device, dtype=ids.dtype)


def _picked(logits: Tensor, targets: Tensor) -> Predicted:
    wanted = targets != IGNORED
    return Predicted(logits[wanted], targets[wanted])


def _side_by_side(clean: Sequence[Tensor]) -> Tensor:
    """Lays caches of different lengths side by side so that they end together."""
    width = max(one.shape[4] for one in clean)
    return torch.cat([torch.nn.functional.pad(one, (0, 0, width - one.shape[4], 0)) for one in clean], dim=2)


class Objective(nn.Module):
    """Sum of the cross-entropies of the responses' tokens, in nats."""

    def __init__(self, receiver: LM, sharers: Sequence[LM], fusers: Sequence[FuserModule], recipe: Recipe) -> None:
        super().__init__()
        self.fusers = nn.ModuleList(fusers)
        kinds, how = KINDS[recipe.fuse_kinds], fuser_computing(recipe, receiver)
        links = tuple(
            TrainedLink(lm, fuser, kinds=kinds, computing=how) for lm, fuser in zip(sharers, fusers, strict=True)
        )
        self.channel = GraphChannel(receiver, links, recipe.fusion_mode, recipe.alignment)
        for fuser in fusers:
            fuser.keep_kinds(kinds)

    def forward(self, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
        """Returns the summed loss; of no lessons at all a zero that every process can still differentiate."""
        return summed_loss(self.channel, lessons, kept) if lessons else zero_loss(self.parameters())

    @property
    def trained(self) -> list[FuserModule]:
        """The fusers in the order of the sharers."""
        return [link.fuser for link in self.channel.links]

    def set_step(self, step: int) -> None:
        """Anneals the gates."""
        for fuser in self.trained:
            fuser.set_step(step)

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Returns the summed loss with hard gates."""
        return summed_loss(self.as_evaluated(), lessons)

    def as_evaluated(self) -> GraphChannel:
        """The channel as it answers with the weights of now: hard gates, nothing else changed."""
        self.eval()
        links = tuple(Link(link.sharer, link.fuser) for link in self.channel.links)
        return GraphChannel(self.channel.answers, links, self.channel.mode, self.channel.alignment)

    def figures(self) -> dict[str, float]:
        """Returns what the fusers report at a step, the mean over several of them."""
        found = [fuser.figures() for fuser in self.trained]
        return {name: fmean(one[name] for one in found) for name in found[0]}

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the fusers; see `save_fusers`."""
        save_fusers(self.trained, folder, provenance)

    def restore(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        for fuser, found in zip(self.trained, load_fusers(folder, len(self.trained)), strict=True):
            fuser.load_state_dict(found.state_dict())


def summed_loss(channel: GraphChannel, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
    """Cross-entropy of the responses' tokens under a channel, summed, in nats."""
    return torch.stack([cross_entropy(*found) for found in channel.predictions(lessons, kept)]).sum()


def fuser_computing(recipe: Recipe, receiver: LM) -> Computing:
    """How the fusers' deltas are computed: products in `fuser_dtype`, which is the receiver's by default."""
    dtype = receiver.dtype if recipe.fuser_dtype == "auto" else DTYPES[recipe.fuser_dtype]
    return Computing(recipe.gradient_checkpointing, None if dtype == torch.float32 else dtype)
