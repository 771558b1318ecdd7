"""The text channel: what the sharer is asked, what the receiver then sees, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.benchmarks.requests import query_of
from harness.channels.messages import NoMessage, TextMessage
from harness.channels.registry import TextOptions
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant, text_variant
from harness.errors import UserError
from harness.inference.types import CallStats, Query
from harness.models.chat import Conversation, Turn
from harness.models.lm import LM
from tests.support.tiny import FOREIGN, shared_lm
from tests.support.work import context_of, query

QUESTION = Query(
    Conversation((Turn("user", "Why?\nA. x\nB. y"),)), question="Why {this}?", choices=("x", "y"), t2t_prompt=None
)


@pytest.fixture
def receiver() -> LM:
    return shared_lm("qwen3")


def _channel(receiver: LM, **style: object) -> TextToText:
    chosen = replace(TextVariant(max_new_tokens=5), **style)
    return TextToText(receiver, shared_lm("llama", 1, FOREIGN), chosen)


def _asked(channel: TextToText, question: Query = QUESTION) -> str:
    return channel.send([question], CallStats()).asked[0]


def test_the_sharer_is_asked_in_the_papers_words(receiver: LM) -> None:
    assert _asked(_channel(receiver)) == (
        "In one clear sentence, describe the most essential background knowledge needed to answer the question: "
        "Why {this}? Do NOT directly solve or give answer to the question."
    )


def test_each_restriction_can_be_lifted_and_is_named(receiver: LM) -> None:
    free = _channel(receiver, with_options=True, may_answer=True)
    assert _asked(free).endswith("the question: Why {this}?\n\nChoices:\nA. x\nB. y")
    assert free.variant == "with options, may answer, 5 tokens"
    assert _channel(receiver).variant == "no options, must not answer, 5 tokens"


@pytest.mark.parametrize(
    ("wordings", "named"),
    [
        ([None, None], "no options, must not answer, 5 tokens"),
        (["{question}", None], "no options, must not answer or in the task's words, 5 tokens"),
        (["{question}", "{question}"], "no options, in the task's words, 5 tokens"),
    ],
)
def test_a_variant_says_whose_words_the_sharer_reads(wordings: list[str | None], named: str) -> None:
    queries = [replace(QUESTION, t2t_prompt=wording) for wording in wordings]
    assert str(text_variant(TextOptions(max_new_tokens=5), queries)) == named
    if any(wordings):
        with pytest.raises(UserError, match="a task has words of its own"):
            text_variant(TextOptions(may_answer=True), queries)


def test_a_task_may_word_the_sharers_turn_itself(receiver: LM) -> None:
    assert _asked(_channel(receiver), replace(QUESTION, t2t_prompt="Hint for {question}!")) == "Hint for Why {this}?!"


def test_the_receiver_reads_the_exchange_as_an_earlier_turn_behind_the_system_turn(receiver: LM) -> None:
    turns = (Turn("system", "Be brief."), *QUESTION.receiver.turns)
    asked = replace(QUESTION, receiver=Conversation(turns, prefix="Answer:"))
    told = replace(
        asked,
        receiver=Conversation((turns[0], Turn("user", "asked"), Turn("assistant", "told"), turns[1]), "Answer:"),
    )
    channel = _channel(receiver)
    context = channel.receive([asked], TextMessage(("told",), ("asked",)), CallStats())
    expected = context_of(Single(receiver), [told])
    assert context.logits.equal(expected.logits)


def test_bytes_are_those_of_the_texts_in_utf8(receiver: LM) -> None:
    message = TextMessage(("é🙂", ""), ("a", "b"))
    assert message.payload_bytes == (6, 0)
    work = CallStats()
    sent = _channel(receiver).send([QUESTION, query("Hi")], work)
    assert work.counters.bytes_moved == sum(len(t.encode()) for t in sent.texts)


def test_the_sharer_keeps_to_its_budget(receiver: LM) -> None:
    work = CallStats()
    _channel(receiver, max_new_tokens=3).send([QUESTION], work)
    assert work.counters.decoded_tokens <= 3
    assert work.counters.forwards == work.counters.decoded_tokens


def test_a_missing_question_is_the_users_error(receiver: LM) -> None:
    with pytest.raises(UserError, match="needs the bare question"):
        _channel(receiver).prompt_length(replace(QUESTION, question=None))


def test_a_row_that_leaves_its_question_blank_is_asked_as_it_is(receiver: LM) -> None:
    assert "question:  Do NOT" in _asked(_channel(receiver), query_of("x", {"question": ""}, {}, 1))


def test_a_message_of_another_kind_is_refused(receiver: LM) -> None:
    with pytest.raises(TypeError, match="NoMessage"):
        _channel(receiver).receive([QUESTION], NoMessage(1), CallStats())
