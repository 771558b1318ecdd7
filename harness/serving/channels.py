"""The channels `receiver`, `sharer` and `t2t` through an external engine, and their throughput.

Guarantees that a text message is asked for, cut and laid out by the same functions as in the embedded engine, and that
the seconds which a channel keeps its engines busy are counted, failed calls included.

Throughput is a batched figure and never a latency: an engine answers many questions side by side. It covers what was
asked in this session of a run, not the answers of an earlier one, and is recorded with its conditions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from harness.channels.messages import Message, NoMessage, TextMessage, texts_of
from harness.channels.t2t import TextVariant, sharer_conversation, told_conversations, written_message
from harness.config import RunConfig
from harness.config.validation import OWN
from harness.inference.types import Answer, CallStats, Query, Request, Role
from harness.models.chat import Conversation
from harness.records.files import scrub
from harness.records.schema import Engine, Throughput
from harness.results.formatting import seconds_text
from harness.serving.backend import Served
from harness.serving.requests import length, prompt_tokens, score, text_tokens, write


@dataclass(frozen=True)
class ServedSingle:
    """One model behind an engine, alone; it reads the view of its role."""

    model: Served
    name: str = "receiver"
    role: Role = "receiver"

    @property
    def variant(self) -> str:
        """Through which engine."""
        return f"through {self.model.backend}"

    def prompt_length(self, query: Query) -> int:
        """Tokens of the prompt, see `length`."""
        return length(self.model, query.of(self.role), query.room)

    def forget(self) -> None:
        """Nothing is remembered here."""

    def send(self, queries: Sequence[Query], work: CallStats) -> NoMessage:
        """Nobody sends anything."""
        return NoMessage(len(queries))

    def answer(self, requests: Sequence[Request], message: Message, work: CallStats) -> list[Answer]:
        """Has the engine answer."""
        with _busy(work):
            return _answers(self.model, [r.query.of(self.role) for r in requests], requests, message, work)


@dataclass(frozen=True)
class ServedText:
    """A sharer that writes and a receiver that reads, each behind an engine."""

    model: Served
    sharer: Served
    style: TextVariant
    name: str = "t2t"

    @property
    def variant(self) -> str:
        """How the sharer is asked, and through which engine."""
        return f"{self.style}, through {self.model.backend}"

    def prompt_length(self, query: Query) -> int:
        """Tokens of the longer of both prompts, counted before the message is written, see `length`."""
        asked = sharer_conversation(query, self.style)
        sharer = length(self.sharer, asked, self.style.max_new_tokens)
        return max(sharer, length(self.model, query.receiver, query.room))

    def forget(self) -> None:
        """Nothing is remembered here."""

    def send(self, queries: Sequence[Query], work: CallStats) -> TextMessage:
        """Has the sharer's engine write."""
        with _busy(work):
            asked = [sharer_conversation(q, self.style) for q in queries]
            texts = write(self.sharer, asked, self.style.max_new_tokens, [()] * len(queries))
        message = written_message(texts, queries, self.style)
        work.counters.bytes_moved += sum(message.payload_bytes)
        return message

    def answer(self, requests: Sequence[Request], message: Message, work: CallStats) -> list[Answer]:
        """Has the receiver's engine answer after the exchange."""
        if not isinstance(message, TextMessage):
            raise TypeError(f"t2t takes a TextMessage, not {type(message).__name__}")
        with _busy(work):
            told = told_conversations([r.query for r in requests], message)
            for conversation, request in zip(told, requests, strict=True):
                length(self.model, conversation, request.query.room)  # with the message it may be too long
            return _answers(self.model, told, requests, message, work)


def _answers(
    model: Served, told: Sequence[Conversation], requests: Sequence[Request], message: Message, work: CallStats
) -> list[Answer]:
    known: list[dict[str, Any]] = [
        {"payload_bytes": sent, "prompt_tokens": prompt_tokens(model, conversation), "message_text": text}
        for conversation, sent, text in zip(told, message.payload_bytes, texts_of(message), strict=True)
    ]
    if requests[0].options:
        found = score(model, told, [r.options for r in requests])
        answers = [Answer(scored=row, **fields) for row, fields in zip(found, known, strict=True)]
    else:
        written = write(model, told, requests[0].max_new_tokens, [r.stops for r in requests])
        answers = [
            Answer(text=text, tokens=text_tokens(model, text), **fields)
            for text, fields in zip(written, known, strict=True)
        ]
    work.answered += len(answers)
    return answers


@contextmanager
def _busy(work: CallStats) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        work.busy_s += time.perf_counter() - start


def engine_of(config: RunConfig) -> Engine | None:
    """Names the engine for the record; None for our own."""
    if config.backend == OWN:
        return None
    return Engine(
        backend=config.backend,
        lm_eval=metadata.version("lm-eval"),
        receiver_args=scrub(config.receiver_args),
        sharer_args=scrub(config.sharer_args),
    )


def throughput_of(config: RunConfig, work: Mapping[str, CallStats]) -> dict[str, Throughput]:
    """Sums up every channel's pass; controls are left out, since they share the sharer's messages.

    Args:
        config: of the run.
        work: arm -> what it took.
    """
    conditions = (
        f"batched, {config.batch_size} questions handed to {config.backend} at once; rendering prompts, reading "
        "answers and failed calls included"
    )
    return {
        name: Throughput(
            questions=done.answered,
            seconds=done.busy_s,
            questions_per_second=done.answered / done.busy_s,
            conditions=conditions,
        )
        for name, done in work.items()
        if done.answered and done.busy_s > 0 and "/" not in name
    }


def throughput_lines(found: Mapping[str, Throughput]) -> list[str]:
    """One line a channel for the terminal."""
    return [
        f"{name}: {t.questions_per_second:.3g} questions/s ({t.questions} in {seconds_text(t.seconds)}; {t.conditions})"
        for name, t in found.items()
    ]
