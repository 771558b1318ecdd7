"""Controls: messages that keep their form and lose their content, or a part of it.

`mismatched`, `mean`, `zeroed` and `noise` leave nothing of what the question's own message said: `noise` is drawn with
each feature's mean and deviation over the tokens of another question's message. `shuffled_tokens` takes the order away
and `noise_own` all but each feature's mean and deviation over the message's own tokens: what a message says on average,
or by its tokens in any order, stays.

Guarantees that what a question gets under a control depends on the question and the seed alone, never on how
questions were batched. Which question lends its message is fixed before anything runs, see `harness.donors`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.channels.c2c import CacheMessage
from harness.channels.messages import Message
from harness.channels.t2t import TextMessage
from harness.inference.types import Query

BANDS = 16
_EMPTY = "the other question's message is empty"
# Made of other questions' messages; of a single question nothing would be left but its own.
OF_OTHERS = ("mismatched", "mean", "noise")


@dataclass(frozen=True)
class Tamper:
    """Destroys the content of a batch's messages.

    Attributes:
        control: which way.
        seed: of everything drawn.
        means: for `mean`: a part a sharer, `[entries, bands, heads * head_dim]`, see `band_means`.
    """

    control: str
    seed: int = 0
    means: tuple[Tensor, ...] = ()

    def __call__(self, message: Message, queries: Sequence[Query]) -> Message:
        """Returns the tampered message."""
        if isinstance(message, TextMessage):
            return self._text(message, queries)
        if isinstance(message, CacheMessage):
            return self._cache(message, queries)
        raise TypeError(f"no control for {type(message).__name__}")

    def _text(self, message: TextMessage, queries: Sequence[Query]) -> TextMessage:
        if self.control == "zeroed":
            return replace(message, texts=("",) * len(message))
        texts = []
        for text, query in zip(message.texts, queries, strict=True):
            words = text.split()
            random.Random(_seed(self.seed, query)).shuffle(words)  # noqa: S311 - reproducible, not secret
            texts.append(" ".join(words))
        return replace(message, texts=tuple(texts))

    def _cache(self, message: CacheMessage, queries: Sequence[Query]) -> CacheMessage:
        rows = [p.split(list(message.lengths), dim=1) for p in message.parts]
        changed = []
        for number, parts in enumerate(rows):
            kept = [self._row(number, own, q) for own, q in zip(parts, queries, strict=True)]
            changed.append(torch.cat(kept, dim=1))
        return replace(message, parts=tuple(changed))

    def _row(self, number: int, own: Tensor, query: Query) -> Tensor:
        tokens = own.shape[1]  # of [entries, tokens, heads * head_dim]
        if self.control == "zeroed":
            return torch.zeros_like(own)
        if self.control == "mean":
            return self.means[number][:, bands(tokens, own.device)].to(own.dtype)
        if self.control == "shuffled_tokens":
            generator = torch.Generator().manual_seed(_seed(self.seed, query))
            return own[:, torch.randperm(tokens, generator=generator).to(own.device)]
        if self.control == "noise_own":
            return drawn_like(own, tokens, _seed(self.seed, query))
        raise ValueError(f"no control {self.control!r} of a message of tensors")


@dataclass(frozen=True)
class _Lent:
    """Orders questions and checks messages for controls that need another question's message.

    Attributes:
        seed: of the order of questions with prompts of one length, and of everything drawn.
    """

    seed: int = 0

    def place(self, query: Query) -> int:
        """See `harness.channels.engine.Trade`."""
        return _seed(self.seed, query)

    def check(self, message: Message) -> None:
        """Raises an exception where nothing can be lent of a message of one question."""
        if isinstance(message, CacheMessage):
            if not message.lengths[0]:
                raise ValueError(_EMPTY)
            if not all(bool(part.isfinite().all()) for part in message.parts):
                raise ArithmeticError("the other question's message holds numbers that are not finite")


class Mismatched(_Lent):
    """Gives each question the message of another one, cropped or repeated to the length of its own."""

    def __call__(self, message: Message, lent: Sequence[tuple[Message, int]], queries: Sequence[Query] = ()) -> Message:
        """Returns what the questions get; `lent` has their donors' messages, each with its place there."""
        if isinstance(message, TextMessage):
            texts = [other.texts[place] for other, place in lent if isinstance(other, TextMessage)]
            return replace(message, texts=tuple(texts))
        if isinstance(message, CacheMessage):
            rows = [other.row(place) for other, place in lent if isinstance(other, CacheMessage)]
            taken = [[stretched(part, n) for part in row] for row, n in zip(rows, message.lengths, strict=True)]
            return replace(message, parts=tuple(torch.cat(parts, dim=1) for parts in zip(*taken, strict=True)))
        raise TypeError(f"no control for {type(message).__name__}")


class Noise(_Lent):
    """Gives each question noise as long as its own message, with the mean and deviation of another one's message."""

    def __call__(self, message: Message, lent: Sequence[tuple[Message, int]], queries: Sequence[Query]) -> Message:
        """Returns what the questions get; `lent` has their donors' messages, each with its place there."""
        if not isinstance(message, CacheMessage):
            raise TypeError(f"no control for {type(message).__name__}")
        rows = [other.row(place) for other, place in lent if isinstance(other, CacheMessage)]
        seeds = [_seed(self.seed, query) for query in queries]
        drawn = [
            [drawn_like(part, n, seed) for part in row]
            for row, n, seed in zip(rows, message.lengths, seeds, strict=True)
        ]
        return replace(message, parts=tuple(torch.cat(parts, dim=1) for parts in zip(*drawn, strict=True)))


# Controls that lend another question's message, by name.
LENDING: Mapping[str, Callable[[int], Mismatched | Noise]] = {"mismatched": Mismatched, "noise": Noise}


def drawn_like(message: Tensor, tokens: int, seed: int) -> Tensor:
    """Normal noise `[entries, tokens, width]` with each feature's mean and deviation over a message's tokens.

    One head after another would need the head count here; a head's features are contiguous, so a mean and deviation for
    each feature match every head's in particular.
    """
    if message.shape[1] == 0:
        raise ValueError(_EMPTY)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((message.shape[0], tokens, message.shape[2]), generator=generator).to(message.device)
    moments = message.float()
    return (moments.mean(1, True) + drawn * moments.std(1, keepdim=True, correction=0)).to(message.dtype)


def stretched(donor: Tensor, tokens: int) -> Tensor:
    """A donor `[entries, its tokens, width]` cropped, or repeated from its start, to `tokens`."""
    if donor.shape[1] == 0:
        raise ValueError(_EMPTY)
    index = torch.arange(tokens, device=donor.device) % donor.shape[1]
    return donor[:, index]


def bands(tokens: int, device: torch.device) -> Tensor:
    """Position band of each of a message's tokens, by relative position."""
    return torch.arange(tokens, device=device) * BANDS // max(tokens, 1)


def band_means(messages: Iterable[CacheMessage]) -> tuple[Tensor, ...]:
    """Average message: a part a sharer, `[entries, bands, heads * head_dim]`, over all tokens of each band.

    Of the messages one at a time is held.
    """
    totals: tuple[Tensor, ...] = ()
    count: Tensor | int = 0
    for message in messages:
        where = torch.cat([bands(n, message.parts[0].device) for n in message.lengths])
        count = torch.bincount(where, minlength=BANDS) + count
        sums = [
            part.new_zeros(part.shape[0], BANDS, part.shape[2], dtype=torch.float32).index_add_(1, where, part.float())
            for part in message.parts
        ]
        totals = tuple(map(torch.add, totals, sums)) if totals else tuple(sums)
    return tuple(total / torch.as_tensor(count).clamp(min=1)[None, :, None] for total in totals)


def _seed(seed: int, query: Query) -> int:
    asked = f"{seed}\n{query.conversation.plain}".encode()
    return int.from_bytes(hashlib.sha256(asked).digest()[:7], "big")
