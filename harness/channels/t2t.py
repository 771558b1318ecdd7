"""Text to text: the sharer writes what the receiver should know, the receiver reads it as an earlier turn.

The paper's wording and budget are the defaults (section 4.1: the sharer sees the question without its options and
is told not to answer). Critics call that baseline weakened, so each of its restrictions can be lifted; the variant
is named in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.channels.interface import Group, LoadedModels, Unsuitable
from harness.channels.messages import Message, TextMessage
from harness.channels.prompt_layout import encode_fitting, prefill
from harness.channels.registry import TextOptions
from harness.errors import UserError
from harness.inference.generate import generate
from harness.inference.types import CallStats, Context, Query
from harness.models.chat import Conversation, Turn
from harness.models.lm import LM

_BACKGROUND = (
    "In one clear sentence, describe the most essential background knowledge needed to answer the question: {question}"
)
_NO_ANSWER = " Do NOT directly solve or give answer to the question."
_UNSEEN = "the one that follows"
_NO_QUESTION = (
    "it needs the bare question of every row, without its options, and a row has none; give the documents a field "
    "'t2t_question', or name theirs in the task's metadata as 't2t_question'"
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class TextVariant:
    """How the sharer is asked.

    Attributes:
        with_options: show it the answer options.
        may_answer: do not forbid it to answer.
        max_new_tokens: its budget.
        task_words: whether the tasks of a run ask the sharer in words of their own, which say nothing of answering.
    """

    with_options: bool = False
    may_answer: bool = False
    max_new_tokens: int = 256
    task_words: Literal["none", "some", "all"] = "none"

    def __str__(self) -> str:
        """Name in tables."""
        seen = "with options" if self.with_options else "no options"
        told = "may answer" if self.may_answer else "must not answer"
        words = {"none": told, "some": f"{told} or in the task's words", "all": "in the task's words"}[self.task_words]
        return f"{seen}, {words}, {self.max_new_tokens} tokens"


@dataclass(frozen=True)
class TextToText:
    """A sharer that writes and a receiver that reads."""

    answers: LM
    sharer: LM
    style: TextVariant = TextVariant()
    name: str = "t2t"

    @property
    def variant(self) -> str:
        """How the sharer is asked."""
        return str(self.style)

    def prompt_length(self, query: Query) -> int:
        """Tokens of the longer of the sharer's and the receiver's prompt, counted before the message is written."""
        asked = sharer_conversation(query, self.style)
        sharer = encode_fitting(self.sharer, asked, self.style.max_new_tokens)
        receiver = encode_fitting(self.answers, query.receiver, query.room)
        return max(len(sharer.ids), len(receiver.ids))

    def forget(self) -> None:
        """Nothing is remembered."""

    def send(self, queries: Sequence[Query], work: CallStats) -> TextMessage:
        """Lets the sharer write, greedily, until it stops or its budget is spent."""
        asked = [sharer_conversation(q, self.style) for q in queries]
        prompts = [encode_fitting(self.sharer, c, self.style.max_new_tokens) for c in asked]
        with work.clock.stage("sharer_prefill"):
            context = prefill(self.sharer, prompts, work)
        with work.clock.stage("sharer_decode"):
            written = generate(context, self.style.max_new_tokens, [()] * len(queries), work)
        message = written_message([w.text for w in written], queries, self.style)
        work.counters.bytes_moved += sum(message.payload_bytes)
        return message

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        """Reads the sharer's exchange, then the question."""
        if not isinstance(message, TextMessage):
            raise TypeError(f"t2t takes a TextMessage, not {type(message).__name__}")
        with work.clock.stage("message_transfer"):
            told = zip(queries, told_conversations(queries, message), strict=True)
            prompts = [encode_fitting(self.answers, c, q.room) for q, c in told]
        with work.clock.stage("receiver_prefill"):
            return prefill(self.answers, prompts, work)


def sharer_conversation(query: Query, style: TextVariant) -> Conversation:
    """What the sharer is asked, behind what it alone reads.

    Raises:
        UserError: the query has no bare question, or no options that could be shown.
    """
    view = query.sharer_view
    question = _question(query)
    if question is None:
        raise UserError(f"Channel t2t does not apply: {_NO_QUESTION}.")
    text = _turn(query, style, question, style.with_options)
    if view is not None and view.context:
        text = f"{view.context}\n\n{text}"
    asked = query.receiver
    return Conversation((Turn("user", text),), chat=asked.chat, reading=asked.reading)


def _question(query: Query) -> str | None:
    """The bare question that the sharer is asked about."""
    view = query.sharer_view
    return query.question if view is None or view.question is None else view.question


def heard_turn(query: Query, style: TextVariant) -> str:
    """The sharer's turn as the receiver reads it: nothing in it that the receiver's own view lacks."""
    if query.sharer_view is None:
        return sharer_conversation(query, style).turns[0].content
    own = query.receiver.plain
    question = query.question if query.question and query.question in own else _UNSEEN
    return _turn(query, style, question, style.with_options and all(choice in own for choice in query.choices))


def _turn(query: Query, style: TextVariant, question: str, with_options: bool) -> str:
    wording = query.t2t_prompt or _BACKGROUND + ("" if style.may_answer else _NO_ANSWER)
    if with_options:
        if not 1 < len(query.choices) <= len(_LETTERS):
            raise UserError(
                "with_options shows the sharer the options, but a row has "
                f"{len(query.choices) or 'none'} that can be shown; leave with_options out, or give the documents a "
                "list 'choices' of 2 to 26 texts."
            )
        listed = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, query.choices, strict=False)]
        question = "\n".join([question, "", "Choices:", *listed])
    return wording.replace("{question}", question)


def written_message(texts: Sequence[str], queries: Sequence[Query], style: TextVariant) -> TextMessage:
    """Makes what the sharer wrote a message."""
    return TextMessage(tuple(text.strip() for text in texts), tuple(heard_turn(query, style) for query in queries))


def told_conversations(queries: Sequence[Query], message: TextMessage) -> list[Conversation]:
    """What the receiver reads: the sharer's exchange, then the question."""
    heard = zip(queries, message.asked, message.texts, strict=True)
    return [_with_exchange(query.receiver, asked, text) for query, asked, text in heard]


def _with_exchange(conversation: Conversation, asked: str, text: str) -> Conversation:
    exchange = (Turn("user", asked), Turn("assistant", text))
    system = conversation.turns[:1] if conversation.turns[0].role == "system" else ()
    return replace(conversation, turns=(*system, *exchange, *conversation.turns[len(system) :]))


def text_variant(options: TextOptions, queries: Sequence[Query]) -> TextVariant:
    """How the sharer is asked the queries of a run.

    Raises:
        UserError: it asks for a wording where a task has its own.
    """
    own = sum(query.t2t_prompt is not None for query in queries)
    if own and options.may_answer:
        raise UserError("may_answer changes how the sharer is asked, but a task has words of its own; leave it out.")
    words: Literal["none", "some", "all"] = "none" if not own else "all" if own == len(queries) else "some"
    return TextVariant(options.with_options, options.may_answer, options.max_new_tokens, words)


def check_views(style: TextVariant, queries: Sequence[Query]) -> None:
    """Makes sure that the sharer is asked a question, and reads what a task shows to it alone.

    Raises:
        Unsuitable: a row has no bare question; or the sharer is shown no options, and the receiver reads none either
            although the sharer's view has them.
    """
    if any(_question(query) is None for query in queries):
        raise Unsuitable(_NO_QUESTION)
    if not style.with_options and any(map(_hides_options, queries)):
        raise Unsuitable(
            "a task hides the options from the receiver, and so does t2t from its sharer; "
            "with_options shows them to the sharer"
        )


def _hides_options(query: Query) -> bool:
    shown = [all(choice in read.plain for choice in query.choices) for read in (query.receiver, query.sharer)]
    return bool(query.choices) and shown == [False, True]


def build(models: LoadedModels, options: TextOptions) -> list[Group]:
    """The first sharer writes, the receiver reads.

    Raises:
        Unsuitable: see `check_views`.
    """
    queries = [request.query for request in models.requests]
    style = text_variant(options, queries)
    check_views(style, queries)
    return [Group(TextToText(models.receiver, models.sharers[0], style))]
