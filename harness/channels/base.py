"""The protocols that every channel fits: `send` makes a message, `receive` reads it and yields a context.

What follows a `Context` (scoring, decoding, timing, recording) is shared, so channels differ only in what is
compared. A new channel is one file with these two halves and a line in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from torch import Tensor

from harness.forward import Counters
from harness.kv import KVBuffer
from harness.models import LM
from harness.prompts import Conversation, SharerView, continued
from harness.timing import Clock, silent_clock

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from harness.engine import Answer, Request

Role = Literal["receiver", "sharer"]


@dataclass(frozen=True)
class Query:
    """One question as a channel sees it.

    Attributes:
        receiver: the conversation that the receiver reads.
        question: the bare question, without options; what a text sharer is asked about. None where there is no such
            field; a benchmark's row may leave it blank.
        choices: the options' texts, for the variants that show them to the sharer.
        t2t_prompt: a task's own wording of the sharer's turn, with ``{question}`` in it.
        labels: of the options, where the answer is decoded and names one of them.
        room: tokens that a decoded answer may take; options say by themselves how long they are.
        sharer_view: what the sharer reads where the task says that it is not what the receiver reads; else None.
    """

    receiver: Conversation
    question: str | None = None
    choices: tuple[str, ...] = ()
    t2t_prompt: str | None = None
    labels: tuple[str, ...] = ()
    room: int = 0
    sharer_view: SharerView | None = None

    @property
    def sharer(self) -> Conversation:
        """The conversation that the sharer reads: its own view, or else the receiver's."""
        return self.receiver if self.sharer_view is None else self.sharer_view.conversation

    @property
    def conversation(self) -> Conversation:
        """The receiver's conversation under its earlier name."""
        return self.receiver

    def of(self, role: Role) -> Conversation:
        """The conversation that a model in this role reads."""
        return self.sharer if role == "sharer" else self.receiver

    def listing(self, options: Sequence[str]) -> Query:
        """The same question with these options behind each conversation, since where a prompt ends depends on them."""
        receiver, view = continued(self.receiver, *options), self.sharer_view
        if view is None:
            return replace(self, receiver=receiver)
        own = replace(view, conversation=continued(view.conversation, *options))
        return replace(self, receiver=receiver, sharer_view=own)


@dataclass
class Work:
    """What a call leaves behind besides its result: counts and seconds.

    Attributes:
        busy_s: seconds spent waiting for somebody else's engine, see `harness.served`.
        answered: requests that such an engine answered.
        cut_prompts: prompts of which the left part was cut off, see `harness.prompts.Reading`.
    """

    counters: Counters = field(default_factory=Counters)
    clock: Clock = field(default_factory=silent_clock)
    busy_s: float = 0.0
    answered: int = 0
    cut_prompts: int = 0


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


@dataclass
class Context:
    """A batch that is ready to answer.

    Attributes:
        lm: the model that answers.
        buffer: its filled cache.
        logits: of the last prompt token, `[rows, vocabulary]`.
        next_positions: position of the first answer token, a row each.
        prompt_tokens: real prompt tokens, a row each.
        options: token ids of each row's options as they continue its prompt, `rows x options x tokens`.
        companion: another model's context of the same batch, whose probabilities are combined with these.
        combine: how: log-probabilities of both, each `[..., choices]`, to one such tensor.
    """

    lm: LM
    buffer: KVBuffer
    logits: Tensor
    next_positions: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    options: tuple[tuple[tuple[int, ...], ...], ...] = ()
    companion: Context | None = None
    combine: Callable[[Tensor, Tensor], Tensor] | None = None


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

    def send(self, queries: Sequence[Query], work: Work) -> Message:
        """The sharer's half."""


class Channel(Sender, Protocol):
    """One way for a receiver to answer with the help of a message."""

    @property
    def answers(self) -> LM:
        """The model that answers."""

    def receive(self, queries: Sequence[Query], message: Message, work: Work) -> Context:
        """The receiver's half."""


class Beginning(Channel, Protocol):
    """A channel that reads part of a prompt before any message matters, so that several messages may share it."""

    def begin(self, queries: Sequence[Query], work: Work) -> KVBuffer:
        """The receiver's half as far as it is the same for every message."""

    def go_on(self, queries: Sequence[Query], message: Message, buffer: KVBuffer, work: Work) -> Context:
        """The rest of it; the buffer is used up."""


class Answering(Sender, Protocol):
    """A channel whose models run in somebody else's engine, which hands back answers and never a context."""

    def answer(self, requests: Sequence[Request], message: Message, work: Work) -> list[Answer]:
        """The receiver's half, to the end: one answer a request; all requests are of one kind."""


def answers_itself(channel: Sender) -> TypeIs[Answering]:
    """Whether a channel hands back answers; one look-up, since timers stand around it."""
    return hasattr(channel, "answer")


def begins(channel: Sender) -> TypeIs[Beginning]:
    """Whether a channel reads part of a prompt before any message matters."""
    return hasattr(channel, "begin")


class PromptTooLong(Exception):
    """A prompt does not fit a model's context: an error of that sample, not of the run."""
