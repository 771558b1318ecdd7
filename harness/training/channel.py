"""The cache channel with the graph kept: what a response's tokens cost, differentiable in the fusers' weights.

Guarantees the steps, masks, positions and fusion of `CacheToCache` itself, for pairs of one vocabulary and aligned
ones, several sharers and several turns: a later stretch of the receiver reads the fused cache of the earlier ones,
and nothing is approximated. Neither model's prompt pass builds a graph before the first fused token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from harness.channels.c2c import CacheToCache, Link
from harness.channels.layout import Span
from harness.channels.messages import TensorMessage
from harness.channels.stretches import steps_of, within
from harness.forward import extend
from harness.inference.types import CallStats
from harness.training.fuser import Computing, trained_delta
from harness.training.graph import GraphBuffer
from harness.training.lessons import Lesson

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
            if any(within(lesson.fused, span) for lesson, span in zip(lessons, spans, strict=True)):
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
