"""What crosses from sharer to receiver: nothing, text, or tensors.

Controls and records know a message by its base alone. A channel sends a `TextMessage` or a `TensorMessage`, or a
subclass of one with fields of its own, and every control of that kind works on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import Self

Row = tuple[Tensor, ...]  # what crosses of one query: a part a sharer, [entries, its tokens, features]


@runtime_checkable
class Message(Protocol):
    """What crosses from sharer to receiver, for a batch of queries."""

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Bytes that cross, per query."""

    def __len__(self) -> int:
        """Number of queries."""


@dataclass(frozen=True)
class NoMessage:
    """The message of a model that works alone."""

    rows: int

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Nothing crosses."""
        return (0,) * self.rows

    def __len__(self) -> int:
        """Number of queries."""
        return self.rows


@dataclass(frozen=True)
class TextMessage:
    """What the sharer wrote, a text a query, and the turn that it answered."""

    texts: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes of each text."""
        return tuple(len(t.encode()) for t in self.texts)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.texts)

    def only(self, place: int) -> Self:
        """The message of one query."""
        return replace(self, texts=(self.texts[place],), asked=(self.asked[place],))

    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same message with other texts."""
        return replace(self, texts=tuple(texts))


@dataclass(frozen=True)
class TensorMessage:
    """Tensors that cross, token by token: keys and values, hidden states, soft prompts.

    Attributes:
        parts: one a sharer, `[entries, tokens of all queries, features]`; an entry is what is scaled and shuffled
            alike for all its tokens, such as the keys of one layer.
        lengths: tokens of each query, in the order of `parts`.
        heads: of each part, into which its features divide evenly; empty for one each. See `harness.channels.codec`.
        crossed: bytes that crossed for each query; None where the tensors cross as they are.
    """

    parts: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    heads: tuple[int, ...] = ()
    crossed: tuple[int, ...] | None = None

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Bytes that cross, per query."""
        if self.crossed is not None:
            return self.crossed
        per_token = sum(p.shape[0] * p.shape[2] * p.element_size() for p in self.parts)
        return tuple(n * per_token for n in self.lengths)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.lengths)

    def row(self, place: int) -> Row:
        """What crosses of one query."""
        start = sum(self.lengths[:place])
        return tuple(part[:, start : start + self.lengths[place]] for part in self.parts)

    def rows(self) -> list[Row]:
        """What crosses of every query."""
        return list(zip(*(part.split(list(self.lengths), dim=1) for part in self.parts), strict=True))

    def only(self, place: int) -> Self:
        """The message of one query."""
        crossed = None if self.crossed is None else (self.crossed[place],)
        return replace(self, parts=self.row(place), lengths=(self.lengths[place],), crossed=crossed)

    def with_rows(self, rows: Sequence[Row]) -> Self:
        """The same message with other tensors of the same shapes, a row a query.

        Raises:
            ValueError: a row has another number of tokens than the query's own message.
        """
        if any(part.shape[1] != tokens for row, tokens in zip(rows, self.lengths, strict=True) for part in row):
            raise ValueError("a row of a message has another number of tokens than before")
        return replace(self, parts=tuple(torch.cat(parts, dim=1) for parts in zip(*rows, strict=True)))


def texts_of(message: Message) -> Sequence[str | None]:
    """Returns what was written for each query; None where the message is no text."""
    return message.texts if isinstance(message, TextMessage) else (None,) * len(message)
