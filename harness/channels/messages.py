"""What crosses from sharer to receiver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


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
