"""How prompts are fitted, prefilled and laid out for a receiver and its sharers, as token indices.

Guarantees one row of equal length per model, so that position `i` of the receiver meets position `i` of every sharer,
that every row's tokens keep their order, and that a row without a token at a step takes no part in it. Models of one
vocabulary read the receiver's own ids; for others the prompt is aligned section by section (C2C, section 3.3.2).
Alignment costs accuracy, so `auto` uses it only where vocabularies differ.

Where the sharer has its own view of a question, what both models read is fused token by token, and what the sharer
alone reads is read in its place. The rows then differ in length, and the plan says where the fused tokens are in each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.channels.interface import PromptTooLong
from harness.errors import UserError, unknown
from harness.inference.forward import ANSWER_ROOM, extend, left_padded, new_buffer
from harness.inference.types import CallStats, Context, Query, Role
from harness.models.chat import Conversation, Encoded, Speaker, encode, same_vocabulary
from harness.models.lm import LM
from harness.models.token_seam import common_prefix
from harness.token_alignment.alignment import AlignedPrompt, align, align_text


def encode_fitting(lm: Speaker, conversation: Conversation, room: int) -> Encoded:
    """Encodes a conversation and makes sure that it and what follows it fit the model's context.

    Args:
        lm: who reads it.
        conversation: with its options, if any.
        room: tokens that a decoded answer may take; the options' own room is known.

    Raises:
        PromptTooLong: they do not fit; read as lm-eval's `hf` does, the prompt is cut on the left instead.
    """
    encoded = encode(lm, conversation)
    room = max(room, encoded.room)
    if conversation.reading.as_lm_eval and room < lm.max_length:
        encoded = encoded.last(lm.max_length - room)
    check_fits(lm, len(encoded.ids), room)
    return encoded


def prompts_of(lm: LM, queries: Sequence[Query], role: Role, answering: bool = True) -> list[Encoded]:
    """What a model in a role reads of each query, with room for the answer where it is the one that answers.

    Raises:
        PromptTooLong: see `encode_fitting`.
    """
    return [encode_fitting(lm, query.of(role), query.room if answering else 0) for query in queries]


def check_fits(lm: Speaker, tokens: int, room: int) -> int:
    """Returns `tokens`.

    Raises:
        PromptTooLong: they and `room` more do not fit the model's context, or there are none.
    """
    if tokens + room > lm.max_length:
        raise PromptTooLong(
            f"The prompt has {tokens} tokens and its answer may take {room}; "
            f"the context of {lm.reference.text!r} holds {lm.max_length}."
        )
    if tokens == 0:
        raise PromptTooLong(f"The prompt is empty for {lm.reference.text!r}.")
    return tokens


def prefill(lm: LM, prompts: Sequence[Encoded], work: CallStats) -> Context:
    """Reads whole prompts in one forward call; only the last position is projected onto the vocabulary."""
    rows = [prompt.ids for prompt in prompts]
    work.cut_prompts += sum(prompt.dropped > 0 for prompt in prompts)
    columns = left_padded(rows, [0] * len(rows), lm)
    buffer = new_buffer(lm, len(rows), columns.ids.shape[1] + ANSWER_ROOM)
    logits = extend(lm, buffer, columns, work.counters, keep=1)
    assert logits is not None
    work.counters.prompt_tokens += columns.tokens
    lengths = tuple(len(r) for r in rows)
    return Context(lm, buffer, logits[:, -1], lengths, lengths, tuple(prompt.options for prompt in prompts))


STRATEGIES = ("auto", "off", "first", "longest")

Span = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A prompt laid out for several models.

    Attributes:
        ids: token ids, receiver first; rows of equal length, but for the prefix, which only the receiver reads, and
            for what the sharer's own view holds.
        real: False for inserted pads.
        fused: stretches of the receiver's positions that are fused, ascending; never the last position of the prompt.
        options: the receiver's ids of the conversation's options, each as it continues `ids[0]`.
        dropped: positions that were cut off at the left because the prompt is too long.
        elsewhere: where each sharer's row holds the fused tokens, in their order; empty where every row holds them at
            the receiver's positions.
        at_once: all stretches are fused together behind the last one, not each as soon as it is read.
    """

    ids: tuple[tuple[int, ...], ...]
    real: tuple[tuple[bool, ...], ...]
    fused: tuple[Span, ...]
    options: tuple[tuple[int, ...], ...] = ()
    dropped: int = 0
    elsewhere: tuple[tuple[Span, ...], ...] = ()
    at_once: bool = False

    @property
    def n_fused(self) -> int:
        """Number of fused tokens."""
        return sum(b - a for a, b in self.fused)

    @property
    def fused_end(self) -> int:
        """Position behind the last fused token; no sharer needs to read further."""
        return self.fused[-1][1] if self.fused else 0

    def fused_in(self, row: int) -> tuple[Span, ...]:
        """The fused tokens' places in one row of `ids`."""
        return self.elsewhere[row - 1] if self.elsewhere and row else self.fused

    @property
    def longest(self) -> int:
        """Positions of the longest row."""
        return max(map(len, self.ids))

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where the receiver pauses so that a stretch can be fused, with both ends of the prompt."""
        ends = [b for _, b in self.fused if b < len(self.ids[0])]
        return (0, *(ends[-1:] if self.at_once else ends), len(self.ids[0]))

    @property
    def room(self) -> int:
        """Tokens that the longest option takes of the context; its last token is scored but never read."""
        return max(map(len, self.options), default=1) - 1

    def last(self, positions: int) -> Plan:
        """The same with at most so many positions in every row, at least 1, cut on the left."""
        # Only the receiver reads a prefix: rows of one view are cut alike, and lie in step afterwards as well.
        drops = [len(row if self.elsewhere else self.ids[0]) - max(1, positions) for row in self.ids]
        if max(drops) <= 0:
            return self
        drops = [max(0, drop) for drop in drops]
        spans = [shift_spans(self.fused_in(row), drop) for row, drop in enumerate(drops)]
        kept = min(map(tokens_in, spans))
        spans = [last_tokens(own, kept) for own in spans]
        return replace(
            self,
            ids=tuple(row[drop:] for row, drop in zip(self.ids, drops, strict=True)),
            real=tuple(row[drop:] for row, drop in zip(self.real, drops, strict=True)),
            fused=spans[0],
            dropped=self.dropped + max(drops),
            elsewhere=tuple(spans[1:]) if self.elsewhere else (),
        )


def shift_spans(spans: Iterable[Span], drop: int) -> tuple[Span, ...]:
    """Spans of a row of which `drop` positions are cut off at the left."""
    moved = ((max(0, a - drop), b - drop) for a, b in spans)
    return tuple((a, b) for a, b in moved if b > a)


def tokens_in(spans: Iterable[Span]) -> int:
    """Positions in all spans together."""
    return sum(b - a for a, b in spans)


def last_tokens(spans: Sequence[Span], tokens: int) -> tuple[Span, ...]:
    """The last positions of ascending spans, so many of them."""
    kept: list[Span] = []
    for start, end in reversed(spans):
        first = max(start, end - tokens)
        tokens -= end - first
        if end > first:
            kept.append((first, end))
    return tuple(reversed(kept))


def common_stretches(ours: Sequence[int], theirs: Sequence[int]) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """What two rows of token ids have in common, in order: its places in the one and in the other.

    The common end comes first, since what the sharer alone reads stands before the question, then the common beginning,
    then the longest stretches between them.
    """
    end = common_prefix(ours[::-1], theirs[::-1])
    start = min(common_prefix(ours, theirs), len(ours) - end, len(theirs) - end)
    middle = SequenceMatcher(None, ours[start : len(ours) - end], theirs[start : len(theirs) - end], autojunk=False)
    inner = [(start + block.a, start + block.b, block.size) for block in middle.get_matching_blocks()]
    blocks = [(0, 0, start), *inner, (len(ours) - end, len(theirs) - end, end)]
    return _joined((a, a + n) for a, _, n in blocks), _joined((b, b + n) for _, b, n in blocks)


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Ascending spans without empty ones, neighbours that touch as one."""
    joined: list[Span] = []
    for a, b in spans:
        if joined and joined[-1][1] == a:
            joined[-1] = (joined[-1][0], b)
        elif b > a:
            joined.append((a, b))
    return tuple(joined)


class Planner:
    """Lays conversations out for one receiver and its sharers; remembers the most recent ones."""

    def __init__(self, receiver: LM, sharers: tuple[LM, ...], alignment: str = "auto") -> None:
        if alignment not in STRATEGIES:
            raise unknown("alignment", alignment, STRATEGIES)
        self.receiver, self.sharers, self._asked = receiver, sharers, alignment
        self._known: dict[Any, Plan] = {}

    @cached_property
    def strategy(self) -> str:
        """``off``, ``first`` or ``longest``: what `auto` comes to for this pair."""
        same = [same_vocabulary(self.receiver.tokenizer, s.tokenizer) for s in self.sharers]
        if self._asked == "auto":
            return "off" if all(same) else "first"
        if self._asked == "off" and not all(same):
            raise UserError(
                "Alignment 'off' needs models of one vocabulary, and these differ; use 'auto', 'first' or 'longest'."
            )
        return self._asked

    def check(self) -> None:
        """Makes sure that every model can read prompts as they are laid out.

        Raises:
            UserError: alignment inserts pads, and a model is right only without.
        """
        models = (self.receiver, *self.sharers)
        counting = next((lm for lm in models if not lm.together.padded), None)
        if counting is not None and self.strategy != "off":
            raise UserError(
                f"Model {counting.reference.text!r} ({counting.model.config.model_type}) counts columns, not positions,"
                f" so it cannot read the pads that alignment {self.strategy!r} inserts; use a pair of one vocabulary."
            )

    def forget(self) -> None:
        """Drops the plans made so far."""
        self._known.clear()

    def plan(self, conversation: Conversation, sharer: Conversation | None = None) -> Plan:
        """Lays one conversation out.

        Args:
            conversation: what the receiver reads.
            sharer: what the sharers read, where that is something else.

        Raises:
            UserError: the two have no token in common that could be fused.
        """
        own_view = sharer is not None and sharer != conversation
        key = (conversation, sharer) if own_view else conversation
        if key not in self._known:
            if len(self._known) >= 4096:
                self._known.clear()
            lay_out = self._same if self.strategy == "off" else self._aligned
            self._known[key] = lay_out(conversation, sharer if own_view else None)
        return self._known[key]

    def _same(self, conversation: Conversation, sharer: Conversation | None) -> Plan:
        encoded = encode(self.receiver, conversation)
        n, rows = len(encoded.ids), 1 + len(self.sharers)
        end = min(encoded.n_prompt, n - 1)
        if sharer is None:
            whole = ((0, end),) if end > 0 else ()
            return Plan((encoded.ids,) * rows, ((True,) * n,) * rows, whole, encoded.options)
        theirs = encode(self.receiver, sharer)
        ids = theirs.ids[: min(theirs.n_prompt, len(theirs.ids) - 1)]
        fused, own = common_stretches(encoded.ids[:end], ids)
        _check_shared(fused, end)
        count = len(self.sharers)
        real = ((True,) * n, *((True,) * len(ids),) * count)
        return Plan((encoded.ids, *(ids,) * count), real, fused, encoded.options, 0, (own,) * count, at_once=True)

    def _aligned(self, conversation: Conversation, sharer: Conversation | None) -> Plan:
        if conversation.chat:
            # The sections of a chat hold what the templates write; nothing stands before them.
            conversation = replace(conversation, reading=replace(conversation.reading, add_bos=False))
        found, encoded = self._align(conversation, sharer), encode(self.receiver, conversation)
        n, tail = _shared(found, encoded.ids)
        cut = n if sharer is None else None
        ids = (found.ids[0][:n] + tail, *(row[:cut] for row in found.ids[1:]))
        real = (found.real[0][:n] + (True,) * len(tail), *(row[:cut] for row in found.real[1:]))
        last = n if tail else n - 1
        messages = [(place, s.start, min(s.end, last)) for place, s in enumerate(found.sections) if s.message]
        kept = [(place, a, b) for place, a, b in messages if b > a]
        fused = tuple((a, b) for _, a, b in kept)
        if sharer is None:
            return Plan(ids, real, fused, encoded.options)
        _check_shared(fused, last)
        own = [tuple((row[place], row[place] + b - a) for place, a, b in kept) for row in found.starts]
        return Plan(ids, real, fused, encoded.options, elsewhere=tuple(own))

    def _align(self, conversation: Conversation, sharer: Conversation | None) -> AlignedPrompt:
        tokenizers = [s.tokenizer for s in self.sharers]
        other = conversation if sharer is None else sharer
        if not conversation.chat:
            texts = (conversation.plain, other.plain)
            return align_text(self.receiver.tokenizer, tokenizers, texts[0], self.strategy, texts[1])
        arguments = conversation.template_arguments
        own, theirs = conversation.messages, other.messages
        return align(self.receiver.tokenizer, tokenizers, own, self.strategy, arguments, theirs)


def _check_shared(fused: tuple[Span, ...], tokens: int) -> None:
    if tokens > 0 and not fused:
        raise UserError(
            "The receiver and the sharer of a task with two views read nothing in common, so there is no token to fuse;"
            " leave the channel out, or give the sharer a sharer_context before the same question."
        )


def _shared(found: AlignedPrompt, ids: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many aligned positions the receiver's prompt `ids` keeps, and its ids behind them.

    What stands behind is the answer's opening words, or what is left of a prompt whose last tokens belong to options.
    """
    places = [place for place, real in enumerate(found.real[0]) if real]
    shared = common_prefix([found.ids[0][place] for place in places], ids)
    return len(found.ids[0]) if shared == len(places) else places[shared], ids[shared:]


def steps_of(plans: Sequence[Plan], fusing: bool) -> list[list[Span]]:
    """Spans of positions that are read in one forward call, a span a plan; shorter plans join at a later step."""
    cut = [p.cuts if fusing else (0, len(p.ids[0])) for p in plans]
    spans = [list(itertools.pairwise(c)) for c in cut]
    most = max(map(len, spans))
    padded = [[(0, 0)] * (most - len(s)) + s for s in spans]
    return [list(step) for step in zip(*padded, strict=True)]


def prompt_columns(steps: Sequence[Sequence[Span]], device: torch.device) -> Tensor:
    """True where a column belongs to its row's prompt, pads inside the prompt included, `[rows, columns]`."""
    lengths = [[b - a for a, b in step] for step in steps]
    rows = [
        [i >= max(n) - mine for n, mine in zip(lengths, row, strict=True) for i in range(max(n))]
        for row in zip(*lengths, strict=True)
    ]
    return torch.tensor(rows, device=device)


def spans_within(fused: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    """The fused stretches that lie in a span; none lies across its ends."""
    return tuple((a, b) for a, b in fused if span[0] <= a and b <= span[1])


def token_index(
    spans: Sequence[tuple[Span, ...]], offsets: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of every token in the spans, `[tokens]` each."""
    rows = [i for i, row in enumerate(spans) for a, b in row for _ in range(a, b)]
    columns = [p + offsets[i] for i, row in enumerate(spans) for a, b in row for p in range(a, b)]
    return index_pair(list(zip(rows, columns, strict=True)), device)


def in_message(plans: Sequence[Plan], now: Sequence[tuple[Span, ...]]) -> list[int]:
    """Places of these tokens among the message's tokens."""
    places, start = [], 0
    for plan, spans in zip(plans, now, strict=True):
        order = {p: i for i, p in enumerate(p for a, b in plan.fused for p in range(a, b))}
        places += [start + order[p] for a, b in spans for p in range(a, b)]
        start += plan.n_fused
    return places


def index_pair(pairs: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs of indices as two index tensors, `[pairs]` each."""
    both = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
    return both[:, 0], both[:, 1]
