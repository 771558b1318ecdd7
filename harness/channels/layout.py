"""How a prompt is laid out for a receiver and its sharers: whose token stands where, and which are fused.

Guarantees one row of equal length per model, so that position `i` of the receiver meets position `i` of every
sharer. Models of one vocabulary read the receiver's own ids; for others the prompt is aligned section by section
(C2C, section 3.3.2). Alignment costs accuracy, so `auto` uses it only where vocabularies differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from harness.errors import UserError, unknown
from harness.fusion.alignment import AlignedPrompt, align, align_text, same_vocabulary
from harness.models import LM
from harness.prompts import Conversation, encode
from harness.seam import common

STRATEGIES = ("auto", "off", "first", "longest")
Span = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A prompt laid out for several models.

    Attributes:
        ids: token ids, receiver first; rows of equal length, but for the prefix, which only the receiver reads.
        real: False for inserted pads.
        fused: stretches of positions that are fused, ascending; never the last position of the prompt.
        options: the receiver's ids of the conversation's options, each as it continues `ids[0]`.
        dropped: positions that were cut off at the left because the prompt is too long.
    """

    ids: tuple[tuple[int, ...], ...]
    real: tuple[tuple[bool, ...], ...]
    fused: tuple[Span, ...]
    options: tuple[tuple[int, ...], ...] = ()
    dropped: int = 0

    @property
    def n_fused(self) -> int:
        """Number of fused tokens."""
        return sum(b - a for a, b in self.fused)

    @property
    def fused_end(self) -> int:
        """Position behind the last fused token; no sharer needs to read further."""
        return self.fused[-1][1] if self.fused else 0

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where the receiver pauses so that a stretch can be fused, with both ends of the prompt."""
        inner = tuple(b for _, b in self.fused if b < len(self.ids[0]))
        return (0, *inner, len(self.ids[0]))

    @property
    def room(self) -> int:
        """Tokens that the longest option takes of the context; its last token is scored but never read."""
        return max(map(len, self.options), default=1) - 1

    def last(self, positions: int) -> Plan:
        """The same with at most so many positions, at least 1, cut on the left."""
        drop = max(0, len(self.ids[0]) - max(1, positions))
        if not drop:
            return self
        spans = ((max(0, a - drop), b - drop) for a, b in self.fused)
        return replace(
            self,
            ids=tuple(row[drop:] for row in self.ids),
            real=tuple(row[drop:] for row in self.real),
            fused=tuple((a, b) for a, b in spans if b > a),
            dropped=self.dropped + drop,
        )


class Planner:
    """Lays conversations out for one receiver and its sharers; remembers the most recent ones."""

    def __init__(self, receiver: LM, sharers: tuple[LM, ...], alignment: str = "auto") -> None:
        if alignment not in STRATEGIES:
            raise unknown("alignment", alignment, STRATEGIES)
        self.receiver, self.sharers, self._asked = receiver, sharers, alignment
        self._known: dict[Conversation, Plan] = {}

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

    def plan(self, conversation: Conversation) -> Plan:
        """Lays one conversation out."""
        if conversation not in self._known:
            if len(self._known) >= 4096:
                self._known.clear()
            lay_out = self._same if self.strategy == "off" else self._aligned
            self._known[conversation] = lay_out(conversation)
        return self._known[conversation]

    def _same(self, conversation: Conversation) -> Plan:
        encoded = encode(self.receiver, conversation)
        n, rows = len(encoded.ids), 1 + len(self.sharers)
        end = min(encoded.n_prompt, n - 1)
        fused = ((0, end),) if end > 0 else ()
        return Plan((encoded.ids,) * rows, ((True,) * n,) * rows, fused, encoded.options)

    def _aligned(self, conversation: Conversation) -> Plan:
        if conversation.chat:
            # The sections of a chat hold what the templates write; nothing stands before them.
            conversation = replace(conversation, reading=replace(conversation.reading, add_bos=False))
        found, encoded = self._align(conversation), encode(self.receiver, conversation)
        n, tail = _shared(found, encoded.ids)
        ids = (found.ids[0][:n] + tail, *(row[:n] for row in found.ids[1:]))
        real = (found.real[0][:n] + (True,) * len(tail), *(row[:n] for row in found.real[1:]))
        last = n if tail else n - 1
        spans = ((s.start, min(s.end, last)) for s in found.sections if s.message)
        return Plan(ids, real, tuple((a, b) for a, b in spans if b > a), encoded.options)

    def _align(self, conversation: Conversation) -> AlignedPrompt:
        tokenizers = [s.tokenizer for s in self.sharers]
        if not conversation.chat:
            return align_text(self.receiver.tokenizer, tokenizers, conversation.plain, self.strategy)
        arguments = conversation.template_arguments
        return align(self.receiver.tokenizer, tokenizers, conversation.messages, self.strategy, arguments)


def _shared(found: AlignedPrompt, ids: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many aligned positions the receiver's prompt `ids` keeps, and its ids behind them.

    What stands behind is the answer's opening words, or what is left of a prompt whose last tokens belong to options.
    """
    places = [place for place, real in enumerate(found.real[0]) if real]
    shared = common([found.ids[0][place] for place in places], ids)
    return len(found.ids[0]) if shared == len(places) else places[shared], ids[shared:]
