"""Queries, requests, contexts and answers, and what a call costs: its counters and its clock.

Everything that asks or answers shares these types; they know nothing of channels.

The clock measures the stages of one answer in seconds. A stage is one call under one timer, and reading the result
costs one synchronisation at the end: on a GPU stages are pairs of CUDA events, on a CPU `perf_counter`. Where models
are on several GPUs no event sees all of them, so every mark waits for all. A clock that is not read costs nothing.

Forward calls and fusions report themselves, so that the least cost of the work can be computed; nothing is kept unless
a log is open in this thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from harness.inference.attention_mask import LayerMask
from harness.inference.kv_cache import KVBuffer
from harness.models.chat import Conversation, SharerView, with_continuations
from harness.models.lm import LM

if TYPE_CHECKING:
    from harness.fusers.interface import FuserModule

STAGES = ("sharer_prefill", "sharer_decode", "message_transfer", "fusion", "receiver_prefill", "receiver_decode")


@dataclass
class Clock:
    """Marks of one answer on one device.

    Attributes:
        device: where the work runs; None measures nothing.
    """

    device: torch.device | None = None
    _stages: list[tuple[str, Any, Any]] = field(default_factory=list)
    _marks: dict[str, Any] = field(default_factory=dict)
    _gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.device is not None and self.device.type == "cuda":
            self._gpus = gpus_in_use()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what runs inside under a name of `STAGES`; the same name may come again and adds up."""
        if self.device is None:
            yield
            return
        start = self._now()
        yield
        self._stages.append((name, start, self._now()))

    def mark(self, name: str) -> None:
        """Remembers a moment: ``start``, ``first_token``, ``end``."""
        if self.device is not None:
            self._marks[name] = self._now()

    def stages_s(self) -> dict[str, float]:
        """Seconds by stage, in the order in which they first ran."""
        self._settle()
        seconds: dict[str, float] = {}
        for name, start, end in self._stages:
            seconds[name] = seconds.get(name, 0.0) + self._between_s(start, end)
        return seconds

    def since_start_s(self, name: str) -> float:
        """Seconds from ``start`` to a mark."""
        self._settle()
        return self._between_s(self._marks["start"], self._marks[name])

    def _now(self) -> Any:
        if self.device is not None and self.device.type == "cuda" and len(self._gpus) < 2:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        self._settle()
        return time.perf_counter()

    def _settle(self) -> None:
        if self.device is not None and self.device.type == "cuda":
            for gpu in self._gpus or (self.device,):
                torch.cuda.synchronize(gpu)

    @staticmethod
    def _between_s(start: Any, end: Any) -> float:
        if isinstance(start, float):
            return float(end - start)
        return float(start.elapsed_time(end)) / 1000.0


def gpus_in_use() -> tuple[int, ...]:
    """Numbers of the GPUs on which this process holds memory."""
    return tuple(number for number in range(torch.cuda.device_count()) if torch.cuda.memory_allocated(number))


def silent_clock() -> Clock:
    """A clock that measures nothing."""
    return Clock(None)


def tpot_s(e2e_s: float, ttft_s: float, tokens_out: int) -> float | None:
    """Seconds per output token after the first; undefined for fewer than two."""
    return (e2e_s - ttft_s) / (tokens_out - 1) if tokens_out >= 2 else None


@dataclass(frozen=True, eq=False)
class ForwardCall:
    """One call of a model: `rows` sequences read `new` tokens behind `past`, and the last `logits` are projected."""

    lm: LM
    rows: int
    new: int
    past: int
    logits: int


@dataclass(frozen=True, eq=False)
class FusionCall:
    """One fusion: `tokens` tokens through some entries of a fuser."""

    fuser: FuserModule
    entries: tuple[int, ...]
    tokens: int


Call = ForwardCall | FusionCall

_LOG: ContextVar[Callable[[Call], None] | None] = ContextVar("log", default=None)


def report(call: Call) -> None:
    """Adds a call to the open log, if there is one."""
    log = _LOG.get()
    if log is not None:
        log(call)


@contextmanager
def logging_calls(log: Callable[[Call], None]) -> Iterator[None]:
    """While it is open, every call of this thread is handed to `log`."""
    token = _LOG.set(log)
    try:
        yield
    finally:
        _LOG.reset(token)


@dataclass
class Counters:
    """Work done so far; has no noise, so it can be asserted where seconds cannot.

    Attributes:
        forwards: calls of a model.
        prompt_tokens: real tokens that were prefilled, option tokens included.
        decoded_tokens: tokens generated.
        fused_tokens: tokens whose cache entries were changed.
        bytes_moved: bytes that crossed from sharer to receiver.
        host_syncs: times that the host waited for a result of the device.
    """

    forwards: int = 0
    prompt_tokens: int = 0
    decoded_tokens: int = 0
    fused_tokens: int = 0
    bytes_moved: int = 0
    host_syncs: int = 0

    def as_dict(self) -> dict[str, int]:
        """Returns the counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def add(self, other: Counters) -> None:
        """Adds another's counts to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


Role = Literal["receiver", "sharer"]

ROLES: tuple[Role, ...] = ("receiver", "sharer")


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

    def of(self, role: Role) -> Conversation:
        """The conversation that a model in this role reads."""
        return self.sharer if role == "sharer" else self.receiver

    def listing(self, options: Sequence[str]) -> Query:
        """The same question with these options behind each conversation, since where a prompt ends depends on them."""
        receiver, view = with_continuations(self.receiver, *options), self.sharer_view
        if view is None:
            return replace(self, receiver=receiver)
        own = replace(view, conversation=with_continuations(view.conversation, *options))
        return replace(self, receiver=receiver, sharer_view=own)


@dataclass(frozen=True)
class Request:
    """What is wanted for one query: the loglikelihood of options, or a decoded text.

    Attributes:
        query: the question; its conversation lists the options.
        options: texts to score; empty for decoding.
        max_new_tokens: decoding budget.
        max_length: prompt and answer together at most, in place of `max_new_tokens`.
        stops: stop strings.
        exactly: decode so many tokens whatever comes, for timing at equal length.
    """

    query: Query
    options: tuple[str, ...] = ()
    max_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    exactly: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Lists the options in the conversation, since where the prompt ends depends on them."""
        if self.query.receiver.options != self.options:
            object.__setattr__(self, "query", self.query.listing(self.options))

    def new_tokens(self, prompt_tokens: int, holds: int) -> int:
        """Decoding budget behind a prompt of so many tokens, in a context that holds `holds`.

        Raises:
            ValueError: `max_length` leaves no room for an answer.
        """
        if self.max_length is None:
            return self.max_new_tokens
        left = min(self.max_length, holds) - prompt_tokens
        if left < 1:
            raise ValueError(
                f"max_length is {self.max_length} and counts the prompt, which has {prompt_tokens} tokens already; "
                "give a larger one, or max_gen_toks, which counts the answer alone."
            )
        return left

    @property
    def kind(self) -> tuple[bool, int]:
        """Requests of different kinds are never batched together."""
        return (bool(self.options), self.max_new_tokens)


@dataclass(frozen=True)
class Scored:
    """Loglikelihood of one option in nats, and whether greedy decoding would have written it."""

    loglikelihood: float
    greedy: bool


@dataclass(frozen=True)
class Fault:
    """Why a request has no answer."""

    type: str
    message: str
    trace: str


@dataclass(frozen=True)
class Answer:
    """What came back for one request.

    Attributes:
        scored: one an option, for requests with options.
        text: what was decoded, otherwise.
        tokens: ids of what was decoded.
        entropy: nats; over the options, or of the first answer token.
        message_text: what the sharer wrote, where the message is text.
        fault: set exactly when there is no answer.
    """

    scored: tuple[Scored, ...] = ()
    text: str | None = None
    tokens: tuple[int, ...] = ()
    entropy: float | None = None
    payload_bytes: int = 0
    prompt_tokens: int = 0
    message_text: str | None = None
    fault: Fault | None = None


@dataclass
class CallStats:
    """What a call leaves behind besides its result: counts and seconds.

    Attributes:
        busy_s: seconds spent waiting for an external serving engine, see `harness.serving`.
        answered: requests that such an engine answered.
        cut_prompts: prompts of which the left part was cut off, see `harness.models.chat.Reading`.
    """

    counters: Counters = field(default_factory=Counters)
    clock: Clock = field(default_factory=silent_clock)
    busy_s: float = 0.0
    answered: int = 0
    cut_prompts: int = 0


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
        layer_mask: columns of the cache that some layers may not attend to; options and answer are read by it too.
        companion: another model's context of the same batch, whose probabilities are combined with these.
        combine: how: log-probabilities of both, each `[..., choices]`, to one such tensor.
    """

    lm: LM
    buffer: KVBuffer
    logits: Tensor
    next_positions: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    options: tuple[tuple[tuple[int, ...], ...], ...] = ()
    layer_mask: LayerMask | None = None
    companion: Context | None = None
    combine: Callable[[Tensor, Tensor], Tensor] | None = None

    def keep_rows(self, rows: Tensor) -> None:
        """Drops every row of the cache that is not in `rows` (indices `[kept]`), while answers are decoded."""
        self.buffer.keep_rows(rows)
        if self.layer_mask is not None:
            self.layer_mask = self.layer_mask.keep_rows(rows)
