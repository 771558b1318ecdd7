"""The protocols that every channel fits: `send` makes a message, `receive` reads it and yields a context.

What follows a `Context` (scoring, decoding, timing, recording) is shared, so channels differ only in what is
compared. A new channel is one file with these two halves and a line in the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from harness.channels.messages import Message
from harness.inference.types import Answer, CallStats, Context, Query, Request
from harness.kv import KVBuffer
from harness.models import LM

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class Sender(Protocol):
    """What every channel is, whoever runs its models: something that sends a message for each question."""

    @property
    def name(self) -> str:
        """Name in files, on the command line and in tables."""

    @property
    def variant(self) -> str:
        """What was chosen inside the channel, named in every row; may be empty."""

    def prompt_length(self, query: Query) -> int:
        """Tokens of the longest prompt that any model of the channel reads for this query.

        Raises:
            PromptTooLong: a model's context cannot hold it.
        """

    def forget(self) -> None:
        """Drops whatever was remembered of earlier queries, so that the next one pays for itself."""

    def send(self, queries: Sequence[Query], work: CallStats) -> Message:
        """The sharer's half; a message of tensors is sent through `harness.channels.codec.carry`."""


class Channel(Sender, Protocol):
    """One way for a receiver to answer with the help of a message."""

    @property
    def answers(self) -> LM:
        """The model that answers."""

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        """The receiver's half."""


class Beginning(Channel, Protocol):
    """A channel that reads part of a prompt before any message matters, so that several messages may share it."""

    def begin(self, queries: Sequence[Query], work: CallStats) -> KVBuffer:
        """The receiver's half as far as it is the same for every message."""

    def go_on(self, queries: Sequence[Query], message: Message, buffer: KVBuffer, work: CallStats) -> Context:
        """The rest of it; the buffer is used up."""


class Answering(Sender, Protocol):
    """A channel whose models run in somebody else's engine, which hands back answers and never a context."""

    def answer(self, requests: Sequence[Request], message: Message, work: CallStats) -> list[Answer]:
        """The receiver's half, to the end: one answer a request; all requests are of one kind."""


def answers_itself(channel: Sender) -> TypeIs[Answering]:
    """Whether a channel hands back answers; one look-up, since timers stand around it."""
    return hasattr(channel, "answer")


def begins(channel: Sender) -> TypeIs[Beginning]:
    """Whether a channel reads part of a prompt before any message matters."""
    return hasattr(channel, "begin")


class PromptTooLong(Exception):
    """A prompt does not fit a model's context: an error of that sample, not of the run."""
