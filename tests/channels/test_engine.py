"""One answer a request whatever fails, batches as budgeted, exact counts of the work done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.channels.c2c import CacheToCache
from harness.channels.control_registry import CONTROLS
from harness.channels.controls import Control
from harness.channels.engine import Arm, answer_one, run
from harness.channels.interface import Channel, PromptTooLong
from harness.channels.messages import Message
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.errors import UserError
from harness.inference.batching import Budget, batches
from harness.inference.types import CallStats, Clock, Context, Counters, Query, Request
from harness.models.chat import Conversation, Turn, encode
from harness.models.lm import LM
from tests.support.tiny import fused, random_lm, shared_lm, tokenizer
from tests.support.work import SENTENCES, answers, query

POISON = "🙂"


@dataclass(frozen=True)
class Breaking:
    """A channel whose receiver fails on every batch that holds a word."""

    inner: Single
    word: str
    error: Exception
    seen: list[int]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def answers(self) -> LM:
        return self.inner.answers

    @property
    def variant(self) -> str:
        return ""

    def prompt_length(self, query: Query) -> int:
        return self.inner.prompt_length(query)

    def send(self, queries: Sequence[Query], work: CallStats) -> Message:
        return self.inner.send(queries, work)

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        self.seen.append(len(queries))
        if any(self.word in q.question for q in queries):
            raise self.error
        return self.inner.receive(queries, message, work)


def _texts(texts: Sequence[str], tokens: int = 4) -> list[Request]:
    return [Request(query(text), max_new_tokens=tokens) for text in texts]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("out of memory"), RuntimeError("bad shape")])
def test_a_failing_batch_is_halved_until_only_the_bad_request_is_a_fault(error: Exception) -> None:
    channel = Breaking(Single(shared_lm()), "naïve", error, [])
    requests = _texts(SENTENCES)
    (outcome,) = run(channel, [Arm(channel)], requests, Budget(8), [CallStats()])
    found = dict(zip(outcome.indices, outcome.answers[0], strict=True))
    expected = answers(channel.inner, requests)
    for i, text in enumerate(SENTENCES):
        fault = found[i].fault
        if "naïve" in text:
            assert fault is not None
            assert (fault.type, fault.message) == (type(error).__name__, str(error))
            assert "receive" in fault.trace
            assert found[i].text is None
        else:
            assert (found[i].text, found[i].tokens) == (expected[i].text, expected[i].tokens)
            assert found[i].entropy == pytest.approx(expected[i].entropy, abs=1e-4)
    assert outcome.notes[0] == f"A batch of 5 failed ({type(error).__name__}) and was halved."
    assert channel.seen[0] == len(SENTENCES)
    assert max(channel.seen[1:]) < len(SENTENCES)


def test_the_users_error_ends_the_run_instead_of_becoming_a_fault() -> None:
    channel = Breaking(Single(shared_lm()), "Hi", UserError("one sentence"), [])
    with pytest.raises(UserError, match="one sentence"):
        answers(channel, _texts(SENTENCES))


def test_numbers_that_are_not_finite_are_a_fault_of_their_question_alone() -> None:
    lm = random_lm(tie_word_embeddings=False)
    poison = tokenizer()(POISON, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[poison[-1]] = math.nan
    texts = ("Hi", "Why is the sky blue?", f"a {POISON}", "def add(a, b):")
    asked = [Request(query(t), options=("A", " the sky")) for t in texts]
    for requests in (_texts(texts), asked):
        found = answers(Single(lm), requests)
        assert [a.fault is not None for a in found] == [False, False, True, False]
        fault = found[2].fault
        assert fault is not None
        assert fault.type == "NonFiniteLogits"
        assert "layer 0" in fault.message


@pytest.mark.parametrize("aligned", [False, True])
def test_a_prompt_beyond_the_context_is_a_fault_of_its_question(aligned: bool) -> None:
    sharer = shared_lm("qwen2", 1)
    short = random_lm(max_position_embeddings=40)
    texts = ("Hi", "why " * 60)
    for channel in (Single(short), fused(short, sharer, alignment="first" if aligned else "auto")):
        fine, bad = answers(channel, _texts(texts))
        assert fine.fault is None, fine.fault
        assert bad.fault is not None
        assert bad.fault.type == PromptTooLong.__name__
        assert "holds 40" in bad.fault.message


def test_the_answers_room_counts_towards_the_context() -> None:
    lm = random_lm(max_position_embeddings=40)
    used = len(encode(lm, query("Hi").receiver).ids)
    requests = [Request(query("Hi", room=room), max_new_tokens=1) for room in (40 - used, 41 - used)]
    assert [a.fault is None for a in answers(Single(lm), requests)] == [True, False]


def test_an_empty_prompt_is_a_fault() -> None:
    empty = Request(Query(Conversation((Turn("user", ""),), chat=False)), max_new_tokens=1)
    fine, bad = answers(Single(shared_lm()), [_texts(["Hi"])[0], empty])
    assert fine.fault is None
    assert bad.fault is not None
    assert "empty" in bad.fault.message


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=20),
    size=st.integers(1, 6),
    tokens=st.none() | st.integers(50, 300),
)
def test_batches_keep_to_the_budget_and_lose_nothing(lengths: list[int], size: int, tokens: int | None) -> None:
    requests = [Request(query("?"), max_new_tokens=n % 2) for n in lengths]
    found = list(batches(dict(enumerate(lengths)), requests, Budget(size, tokens)))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= size
        assert len({requests[i].kind for i in batch}) == 1
        assert tokens is None or len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
        assert [lengths[i] for i in batch] == sorted((lengths[i] for i in batch), reverse=True)


def test_a_generation_of_n_tokens_is_n_forwards() -> None:
    lm, work = shared_lm(), CallStats()
    (answer,) = answers(Single(lm), _texts(["Why?"], 7), work=work)
    prompt = len(encode(lm, query("Why?").receiver).ids)
    n = len(answer.tokens)
    assert n == 7
    assert work.counters == Counters(forwards=n, prompt_tokens=prompt, decoded_tokens=n, host_syncs=n)
    assert answer.prompt_tokens == prompt


def test_the_last_step_of_a_batch_runs_no_forward_for_nobody() -> None:
    work = CallStats()
    found = answers(Single(shared_lm()), _texts(SENTENCES, 5), work=work)
    assert work.counters.forwards == max(len(a.tokens) for a in found)
    assert work.counters.decoded_tokens == sum(len(a.tokens) for a in found)


@pytest.mark.parametrize(
    ("options", "forwards", "more"), [(("A", "B", "C", "D"), 1, 0), ((" AB", " BC", " CD", " DE"), 2, 4)]
)
def test_options_are_one_prefill_and_at_most_one_forward_more(
    options: tuple[str, ...], forwards: int, more: int
) -> None:
    lm, work = shared_lm(), CallStats()
    conversation = query("Why?").receiver
    answers(Single(lm), [Request(query("Why?"), options=options)], work=work)
    prompt = len(encode(lm, conversation).ids)
    sizes = [len(tokenizer()(o, add_special_tokens=False)["input_ids"]) for o in options]
    assert sum(n - 1 for n in sizes) >= more
    expected = prompt + sum(n - 1 for n in sizes)
    assert work.counters == Counters(forwards=forwards, prompt_tokens=expected, host_syncs=1)


def test_a_fused_generation_costs_one_forward_of_the_sharer_and_one_more_of_the_receiver() -> None:
    receiver, sharer = shared_lm(), shared_lm("qwen2", 1)
    work, closed = CallStats(), CallStats()
    channel = fused(receiver, sharer)
    (answer,) = answers(channel, _texts(["Why?"], 3), work=work)
    answers(channel.closed(), _texts(["Why?"], 3), work=closed)
    n = len(encode(receiver, query("Why?").receiver).ids)
    crossing = 2 * sharer.n_layers * sharer.config.num_key_value_heads * 8 * 4 * (n - 1)
    assert answer.payload_bytes == crossing
    assert work.counters == Counters(
        forwards=1 + 2 + 2,
        prompt_tokens=(n - 1) + n,
        decoded_tokens=3,
        fused_tokens=n - 1,
        bytes_moved=crossing,
        host_syncs=3,
    )
    assert closed.counters == Counters(forwards=3, prompt_tokens=n, decoded_tokens=3, host_syncs=3)


def test_a_written_message_is_counted_and_handed_out() -> None:
    work = CallStats()
    channel = TextToText(shared_lm(), shared_lm("llama", 1), TextVariant(max_new_tokens=4))
    (answer,) = answers(channel, _texts(["Why?"], 3), work=work)
    assert answer.message_text is not None
    assert answer.payload_bytes == len(answer.message_text.encode()) == work.counters.bytes_moved
    assert work.counters.forwards == work.counters.decoded_tokens
    assert work.counters.decoded_tokens >= 3 + 1


def _arms(channel: CacheToCache) -> list[Arm]:
    return [Arm(channel), Arm(channel, "zeroed", Control(CONTROLS.get("zeroed"))), Arm(channel.closed(), "closed")]


def test_arms_share_the_sharers_half_and_differ_only_in_what_was_tampered_with() -> None:
    channel = fused(shared_lm(), shared_lm("qwen2", 1))
    requests = [Request(query(t), options=("A", "B")) for t in SENTENCES]
    works = [CallStats(), CallStats(), CallStats()]
    (outcome,) = run(channel, _arms(channel), requests, Budget(8), works)
    matched, zeroed, closed = ([a.scored for a in arm] for arm in outcome.answers)
    assert [w.counters.forwards for w in works] == [1 + 2, 1, 1]
    assert matched != zeroed
    alone = answers(Single(channel.answers), requests)
    assert closed == [alone[i].scored for i in outcome.indices]


def test_a_fault_that_is_known_beforehand_reaches_every_arm() -> None:
    short = random_lm(max_position_embeddings=40)
    channel = fused(short, shared_lm("qwen2", 1))
    works = [CallStats(), CallStats(), CallStats()]
    outcomes = list(run(channel, _arms(channel), _texts(("Hi", "why " * 60)), Budget(8), works))
    first = outcomes[0]
    assert first.indices == [1]
    assert len(first.answers) == 3
    assert all(arm[0].fault is not None for arm in first.answers)
    assert outcomes[1].indices == [0]


def _channels() -> list[Channel]:
    return [Single(shared_lm()), fused(shared_lm(), shared_lm("qwen2", 1))]


def test_nothing_asked_is_nothing_answered() -> None:
    for channel in _channels():
        assert answers(channel, []) == []


def test_the_same_question_may_be_asked_twice() -> None:
    for channel in _channels():
        one, other = answers(channel, _texts(["Why?", "Why?"]))
        assert one == other


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_an_arm_answers_the_same_bits_whether_it_shares_what_was_read_or_not(mode: str) -> None:
    channel = fused(shared_lm(), shared_lm("qwen2", 1), shared_lm("qwen3", 2), mode=mode)
    requests = [Request(query(t, prefix="So"), options=("A", "B")) for t in SENTENCES]
    arms = _arms(channel)[:2]
    (together,) = run(channel, arms, requests, Budget(8), [CallStats(), CallStats()])
    for arm, found in zip(arms, together.answers, strict=True):
        (alone,) = run(channel, [arm], requests, Budget(8), [CallStats()])
        assert alone.indices == together.indices
        assert [a.scored for a in alone.answers[0]] == [a.scored for a in found]


@pytest.mark.parametrize("role", ["receiver", "sharer"])
def test_decoding_is_booked_on_the_model_whose_conversation_a_channel_reads(role: Any) -> None:
    channel, work = (
        Single(shared_lm(), name="under_another_name", role=role),
        CallStats(clock=Clock(torch.device("cpu"))),
    )
    answer_one(channel, Request(query("Why is the sky blue?"), max_new_tokens=2), work)
    assert f"{role}_decode" in work.clock.stages_s()
