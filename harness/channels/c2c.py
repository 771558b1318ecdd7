"""Cache to cache: the sharer's KV-cache is projected into the receiver's and added through gates (C2C, section 3.3).

Guarantees that only tokens that are fused are gathered, projected and written; that prompts of any mix of lengths
give what each gives alone; and that a fuser with every gate closed leaves the receiver's own computation untouched,
bit for bit. Prompts are cut only behind a fused stretch, because what follows must read the fused cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from harness.channels.interface import Group, LoadedModels
from harness.channels.layer_selection import select_layers
from harness.channels.messages import Message, TensorMessage, to_receiver_device
from harness.channels.prompt_layout import (
    Plan,
    Planner,
    Span,
    check_fits,
    in_message,
    index_pair,
    prompt_columns,
    spans_within,
    steps_of,
    token_index,
)
from harness.channels.registry import FusedOptions, Payload
from harness.fusers.interface import FuserModule
from harness.inference.forward import ANSWER_ROOM, Columns, extend, left_padded, new_buffer
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import CallStats, Context, FusionCall, Query, report
from harness.models.lm import LM

# Of the receiver's cache that is copied for fusion at a time: enough for large products, little beside the cache.
_GATHERED_BYTES = 64 * 2**20
_CPU_GATHERED_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Link:
    """One sharer with the fuser that was trained for it, and what of its cache the fuser reads.

    Attributes:
        sharer: whose cache is read.
        fuser: of any form.
        closed: nothing is fused.
        layers: receiver layers that are fused, of the fuser's own; None for all of them.
    """

    sharer: LM
    fuser: FuserModule
    closed: bool = False
    layers: frozenset[int] | None = None

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """The fuser's entries that add something, of the chosen layers."""
        if self.closed:
            return ()
        found = self.fuser.open_entries()
        return found if self.layers is None else self.fuser.entries_in(found, self.layers)

    @cached_property
    def sent(self) -> tuple[tuple[int, int], ...]:
        """(kind, sharer layer) of everything that crosses; layers that several receiver layers read cross once."""
        return tuple(sorted({(kind, layer) for kind, layer in self.fuser.reads(self.entries)}))

    @cached_property
    def sent_index(self) -> tuple[Tensor, Tensor]:
        """`sent` as two index tensors on the sharer's device."""
        return index_pair(self.sent, self.sharer.device)

    @cached_property
    def read_index(self) -> tuple[Tensor, Tensor, Tensor]:
        """On the fuser's device: kind and receiver layer of everything it writes; places in `sent` of what it reads."""
        device = self.fuser.device
        kind, layer = index_pair(self.fuser.writes(self.entries), device)
        reads = self.fuser.reads(self.entries)
        place = torch.tensor([self.sent.index((kind, layer)) for kind, layer in reads], dtype=torch.long, device=device)
        return kind, layer, place

    def delta(self, sharer: Tensor, receiver: Tensor) -> Tensor:
        """What is added to the receiver's entries; see `FuserModule.forward`."""
        found: Tensor = self.fuser(sharer, receiver, self.entries)
        return found


@dataclass(frozen=True, eq=False)
class CacheToCache:
    """A receiver with one or more sharers whose caches are fused into its own.

    Attributes:
        answers: the receiver.
        links: the sharers with their fusers, in the order in which they are fused.
        mode: ``sequential``: each fuser reads the cache that the one before has updated;
            ``parallel``: each reads the clean cache and the deltas are summed.
        alignment: ``auto``, ``off``, ``first`` or ``longest``.
        payload: form in which the message crosses, see `harness.channels.messages`.
    """

    answers: LM
    links: tuple[Link, ...]
    mode: str = "sequential"
    alignment: str = "auto"
    name: str = "c2c"
    payload: Payload = "native"

    @property
    def variant(self) -> str:
        """Alignment in force and, with several sharers, how they are combined."""
        combined = f", {self.mode}" if len(self.links) > 1 else ""
        return f"alignment {self.planner.strategy}{combined}"

    @cached_property
    def planner(self) -> Planner:
        """Lays prompts out for this pair; rows are remembered between the two halves."""
        return Planner(self.answers, tuple(link.sharer for link in self.links), self.alignment)

    def closed(self) -> CacheToCache:
        """The same channel with every gate shut."""
        return replace(self, links=tuple(replace(link, closed=True) for link in self.links))

    def prompt_length(self, query: Query) -> int:
        """Tokens of the longest prompt that a model reads, inserted pads included."""
        return self._plan(query).longest

    def forget(self) -> None:
        """Drops the plans of earlier prompts."""
        self.planner.forget()

    def send(self, queries: Sequence[Query], work: CallStats) -> TensorMessage:
        """Every sharer reads the prompts up to the last fused token; K and V of the fused tokens cross."""
        plans = [self._plan(q) for q in queries]
        lengths = tuple(p.n_fused for p in plans)
        parts = tuple(self._share(i, plans, work) for i in range(len(self.links)))
        heads = tuple(link.fuser.config.sharer_heads for link in self.links)
        return to_receiver_device(TensorMessage(parts, lengths, heads), self.payload, self.answers.device, work)

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        """Reads the prompts, fusing each stretch before what follows it is read."""
        return self.go_on(queries, message, self.begin(queries, work), work)

    def begin(self, queries: Sequence[Query], work: CallStats) -> KVBuffer:
        """Reads the prompts as far as no message has changed anything, up to the end of the first fused stretch."""
        plans, steps = self._laid_out(queries)
        buffer = new_buffer(self.answers, len(plans), sum(max(b - a for a, b in step) for step in steps) + ANSWER_ROOM)
        if len(steps) > 1:
            self._read(buffer, plans, steps[0], work)
        return buffer

    def go_on(self, queries: Sequence[Query], message: Message, buffer: KVBuffer, work: CallStats) -> Context:
        """Fuses a message into what `begin` read for the same queries and reads on; the buffer is used up."""
        if not isinstance(message, TensorMessage):
            raise TypeError(f"c2c takes a TensorMessage, not {type(message).__name__}")
        plans, steps = self._laid_out(queries)
        for before, spans in itertools.pairwise(steps):
            with work.clock.stage("fusion"):
                offsets = [buffer.length - b for _, b in before]
                self._fuse(buffer, plans, before, offsets, message, work)
            if spans is not steps[-1]:
                self._read(buffer, plans, spans, work)
        logits = self._read(buffer, plans, steps[-1], work, keep=1)
        assert logits is not None
        ends = tuple(len(p.ids[0]) for p in plans)
        if not all(all(p.real[0]) for p in plans):
            # The original decodes without a mask: its answer tokens do see the pads that alignment inserted.
            buffer.reveal(prompt_columns(steps, buffer.device), dense=len(plans) * buffer.length == sum(ends))
        work.cut_prompts += sum(p.dropped > 0 for p in plans)
        options = tuple(p.options for p in plans)
        return Context(self.answers, buffer, logits[:, -1], ends, tuple(sum(p.real[0]) for p in plans), options)

    def _laid_out(self, queries: Sequence[Query]) -> tuple[list[Plan], list[list[Span]]]:
        plans = [self._plan(q) for q in queries]
        return plans, steps_of(plans, any(link.entries for link in self.links))

    def _read(
        self, buffer: KVBuffer, plans: Sequence[Plan], spans: Sequence[Span], work: CallStats, keep: int = 0
    ) -> Tensor | None:
        with work.clock.stage("receiver_prefill"):
            columns = self._columns(plans, spans)
            work.counters.prompt_tokens += columns.tokens
            return extend(self.answers, buffer, columns, work.counters, keep=keep)

    def _plan(self, query: Query) -> Plan:
        view, readers = query.sharer_view, (self.answers, *(link.sharer for link in self.links))
        plan = self.planner.plan(query.receiver, None if view is None else view.conversation)
        room, holds = max(query.room, plan.room), min(lm.max_length for lm in readers)
        if query.receiver.reading.as_lm_eval and room < holds:
            plan = plan.last(holds - room)
        for lm, ids in zip(readers, plan.ids, strict=True):
            check_fits(lm, max(len(ids), len(plan.ids[0])), room)
        return plan

    def _share(self, number: int, plans: Sequence[Plan], work: CallStats) -> Tensor:
        link, row = self.links[number], number + 1
        lm = link.sharer
        spans = [p.fused_in(row) for p in plans]
        ends = [own[-1][1] if own else 0 for own in spans]
        if not link.entries or not any(ends):
            shape = (len(link.sent), sum(p.n_fused for p in plans), link.fuser.config.sharer_dim)
            return torch.empty(shape, dtype=lm.dtype, device=lm.device)
        with work.clock.stage("sharer_prefill"):
            ids = [p.ids[row][:end] for p, end in zip(plans, ends, strict=True)]
            real = [p.real[row][:end] for p, end in zip(plans, ends, strict=True)]
            columns = left_padded(ids, [0] * len(plans), lm, real)
            buffer = new_buffer(lm, len(plans), columns.ids.shape[1])
            extend(lm, buffer, columns, work.counters)
            work.counters.prompt_tokens += columns.tokens
        with work.clock.stage("message_transfer"):
            offsets = [columns.ids.shape[1] - end for end in ends]
            rows, places = token_index(spans, offsets, lm.device)
            return buffer.gather(*link.sent_index, rows, places)

    def _columns(self, plans: Sequence[Plan], spans: Sequence[Span]) -> Columns:
        ids = [p.ids[0][a:b] for p, (a, b) in zip(plans, spans, strict=True)]
        real = [p.real[0][a:b] for p, (a, b) in zip(plans, spans, strict=True)]
        return left_padded(ids, [a for a, _ in spans], self.answers, real)

    def _fuse(
        self,
        buffer: KVBuffer,
        plans: Sequence[Plan],
        spans: Sequence[Span],
        offsets: list[int],
        message: TensorMessage,
        work: CallStats,
    ) -> None:
        now = [spans_within(p.fused, span) for p, span in zip(plans, spans, strict=True)]
        device = self.answers.device
        rows, columns = token_index(now, offsets, device)
        picked = torch.tensor(in_message(plans, now), device=device)
        work.counters.fused_tokens += len(picked)
        for link in self.links:
            if link.entries:
                report(FusionCall(link.fuser, link.entries, len(picked)))
        step = _tokens_at_once(buffer) or max(1, len(picked))
        for chunk in zip(rows.split(step), columns.split(step), picked.split(step), strict=True):
            self._fuse_tokens(buffer, message, *chunk)

    def _fuse_tokens(
        self, buffer: KVBuffer, message: TensorMessage, rows: Tensor, columns: Tensor, picked: Tensor
    ) -> None:
        pending = []
        for link, part in zip(self.links, message.parts, strict=True):
            if not link.entries:
                continue
            kind, layer, place = link.read_index
            receiver = buffer.gather(kind, layer, rows, columns)  # [entries, tokens, Hr * Dr]
            delta = link.delta(part[place[:, None], picked], receiver)
            if self.mode == "sequential":
                buffer.put(kind, layer, rows, columns, receiver.add_(delta))
            else:
                pending.append((kind, layer, delta))
        for kind, layer, delta in pending:
            buffer.add(kind, layer, rows, columns, delta)


def _tokens_at_once(buffer: KVBuffer) -> int | None:
    """How many tokens to fuse at once, so that what is gathered stays small; None for all, where a graph is made."""
    if torch.is_grad_enabled():
        return None
    per_token = buffer.nbytes / (buffer.rows * buffer.length)
    room = _CPU_GATHERED_BYTES if buffer.device.type == "cpu" else _GATHERED_BYTES
    return max(1, int(room / per_token)) if per_token else None


def link_sharer(sharer: LM, fuser: FuserModule, layers: str | None = None) -> Link:
    """A sharer with its fuser, of which `layers` names the ones that are fused, see `harness.channels.layer_selection`.

    Raises:
        UserError: the fuser has no such layers, or its form does not rank them.
    """
    if layers is None:
        return Link(sharer, fuser)
    own = [receiver for receiver, _ in fuser.config.layer_map]
    return Link(sharer, fuser, layers=select_layers(layers, own, fuser.layer_scores))


def build(models: LoadedModels, options: FusedOptions) -> list[Group]:
    """Every sharer with its fuser."""
    pairs = zip(models.sharers, models.fusers, strict=True)
    links = tuple(link_sharer(sharer, fuser, options.layers) for sharer, fuser in pairs)
    alone = all(sharer is models.receiver for sharer in models.sharers)
    alignment = "auto" if alone else options.alignment  # a model has the vocabulary of itself
    channel = CacheToCache(models.receiver, links, options.mode, alignment, payload=options.payload)
    channel.planner.check()
    return [Group(channel)]
