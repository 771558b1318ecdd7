"""The protocols of a channel, and what its builder is given and returns.

`send` makes a message; `receive` reads it and returns a context. What follows a `Context` (scoring, decoding, timing,
recording) is the same code for all channels, so channels differ only in what is compared. A new channel is one file
with these two methods and an entry in the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness.channels.messages import Message
from harness.fusers.interface import FuserModule
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import Answer, CallStats, Context, Query, Request
from harness.models.lm import LM


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
        """The sharer's half; a message of tensors is sent through `harness.channels.messages.to_receiver_device`."""


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


class PromptTooLong(Exception):
    """A prompt does not fit a model's context: an error of that sample, not of the run."""


@dataclass(frozen=True)
class Group:
    """A channel that sends.

    Attributes:
        controls: of the run, those that it takes; builders leave them out.
        name_control: the control that the channel itself was built for, "" for none.
    """

    channel: Channel | Answering
    controls: tuple[str, ...] = ()
    name_control: str = ""


@dataclass(frozen=True)
class LoadedModels:
    """What the builders of channels choose from.

    Attributes:
        sharers: none where no channel of the run needs one.
        fusers: one a sharer, where a channel needs them.
        tuned: the receiver after fine-tuning, where a channel needs it.
        self_fuser: of the receiver with itself, where that control is asked.
        controls: that the run asks for.
        requests: what is going to be asked, where that is known.
    """

    receiver: LM
    controls: tuple[str, ...] = ()
    sharers: tuple[LM, ...] = ()
    fusers: tuple[FuserModule, ...] = ()
    tuned: LM | None = None
    self_fuser: FuserModule | None = None
    requests: Sequence[Request] = ()


def own_sharer(models: LoadedModels) -> LoadedModels:
    """The receiver as its only sharer, with the fuser that was trained for that."""
    fusers = () if models.self_fuser is None else (models.self_fuser,)
    return replace(models, sharers=(models.receiver,), fusers=fusers)


class Unsuitable(Exception):
    """A channel does not apply to what is asked; says why and what to do, in one sentence."""
