"""What a question gets does not depend on what happens to the questions beside it, nor on what memory held before."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from harness.channels.c2c import CacheToCache
from harness.channels.control_registry import CONTROLS
from harness.channels.controls import Control
from harness.channels.engine import Arm, Donors, Failed, Outcome, answer_one, attempted, run
from harness.channels.interface import Channel, PromptTooLong
from harness.channels.messages import Message, TensorMessage
from harness.channels.single import Single
from harness.errors import RunError
from harness.inference import kv_cache
from harness.inference.batching import Budget, Turns, batches
from harness.inference.forward import ANSWER_ROOM
from harness.inference.types import Answer, CallStats, Context, Query, Request
from harness.models.lm import LM
from tests.support.tiny import fused, shared_lm
from tests.support.work import query

TEXTS = ("Why?", "How?", "Who is it?", "Where is the sea?", "What?", "The river bends north. Where?", "Is it?")
BAD = "Who is it?"
LOST = torch.AcceleratorError("CUDA error: device-side assert triggered")


@dataclass(frozen=True)
class Disturbed:
    """A channel whose halves may be made to fail; it remembers the sizes that it was asked for."""

    inner: Channel
    sending: Callable[[Sequence[Query]], None] = lambda _: None
    receiving: Callable[[Sequence[Query], Message], None] = lambda *_: None
    sizes: list[int] = field(default_factory=list)

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

    def forget(self) -> None:
        self.inner.forget()

    def send(self, queries: Sequence[Query], work: CallStats) -> Message:
        self.sizes.append(len(queries))
        self.sending(queries)
        return self.inner.send(queries, work)

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        self.receiving(queries, message)
        return self.inner.receive(queries, message, work)


def mismatched(seed: int = 0) -> Control:
    return Control(CONTROLS.get("mismatched"), seed)


def asked(texts: Sequence[str] = TEXTS) -> list[Request]:
    return [Request(query(text), options=("A", "B")) for text in texts]


def channel() -> CacheToCache:
    return fused(shared_lm(), shared_lm("qwen2", 1))


def outcomes(channel: Channel, texts: Sequence[str] = TEXTS, size: int = 8, **more: Any) -> list[Outcome]:
    arms = [Arm(channel), Arm(channel, "mismatched", mismatched(more.pop("seed", 0)))]
    return list(run(channel, arms, asked(texts), Budget(size), [CallStats(), CallStats()], **more))


def by_text(found: Sequence[Outcome], texts: Sequence[str] = TEXTS, arm: int = 1) -> dict[str, Answer]:
    pairs = [pair for one in found for pair in zip(one.indices, one.answers[arm], strict=True)]
    return {texts[index]: answer for index, answer in pairs}


@functools.cache
def undisturbed(arm: int = 1) -> dict[str, Answer]:
    return by_text(outcomes(channel()), arm=arm)


def check_same(found: dict[str, Answer], expected: dict[str, Answer], but: Sequence[str] = ()) -> None:
    for text, answer in found.items():
        if text not in but:
            assert answer.fault is None, (text, answer.fault)
            numbers = [s.loglikelihood for s in answer.scored]
            assert numbers == pytest.approx([s.loglikelihood for s in expected[text].scored], abs=1e-4), text


def fails_on(word: str, error: Exception) -> Callable[..., None]:
    def check(queries: Sequence[Query], *_: Any) -> None:
        if any(word in str(q.question) for q in queries):
            raise error

    return check


def fails_above(size: int, error: Exception) -> Callable[..., None]:
    def check(queries: Sequence[Query], *_: Any) -> None:
        if len(queries) > size:
            raise error

    return check


NO_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_donor_does_not_depend_on_the_batch_size(size: int) -> None:
    check_same(by_text(outcomes(channel(), size=size)), undisturbed())


@pytest.mark.parametrize("wanted", [{0}, {3, 4}, {6}])
def test_a_donor_does_not_depend_on_what_is_answered_already_or_by_whom(wanted: set[int]) -> None:
    expected = undisturbed()
    check_same(by_text(outcomes(channel(), wanted=wanted, size=2)), expected)
    dealt = [by_text(outcomes(channel(), size=2, turns=Turns(rank, 2))) for rank in range(2)]
    assert not dealt[0].keys() & dealt[1].keys()
    check_same(dealt[0] | dealt[1], expected)


@pytest.mark.parametrize("largest", [1, 2, 3])
@pytest.mark.parametrize("half", ["sending", "receiving"])
def test_a_halved_batch_changes_no_donor(half: str, largest: int) -> None:
    broken = Disturbed(channel(), **{half: fails_above(largest, NO_MEMORY)})
    check_same(by_text(outcomes(broken)), undisturbed())


@pytest.mark.parametrize("word", TEXTS)
def test_a_question_that_fails_in_one_arm_costs_nobody_else_an_answer(word: str) -> None:
    broken = Disturbed(channel(), receiving=fails_on(word, RuntimeError("bad shape")))
    found = outcomes(broken)
    for arm in range(2):
        check_same(by_text(found, arm=arm), undisturbed(arm), but=[word])
        fault = by_text(found, arm=arm)[word].fault
        assert fault is not None
        assert (fault.type, fault.message) == ("RuntimeError", "bad shape")


def test_a_question_without_a_message_costs_nobody_else_an_answer() -> None:
    broken = Disturbed(channel(), sending=fails_on(BAD, RuntimeError("no message")))
    found = outcomes(broken)
    check_same(by_text(found, arm=0), undisturbed(0), but=[BAD])
    heard = by_text(found)
    assert [text for text, answer in heard.items() if answer.fault is not None] == [BAD]
    others = [t for t, answer in heard.items() if t != BAD and not _equal(answer, undisturbed()[t])]
    assert len(others) == 1  # the one question whose donor has no message
    assert sum("of like length" in note and "no message" in note for one in found for note in one.notes) == 1


def _equal(a: Answer, b: Answer) -> bool:
    pairs = zip(a.scored, b.scored, strict=True)
    return all(abs(one.loglikelihood - other.loglikelihood) < 1e-4 for one, other in pairs)


def test_a_message_that_is_not_finite_is_lent_to_nobody() -> None:
    inner = channel()

    @dataclass(frozen=True)
    class Spoilt(Disturbed):
        def send(self, queries: Sequence[Query], work: CallStats) -> Message:
            message = super().send(queries, work)
            assert isinstance(message, TensorMessage)
            for place, one in enumerate(queries):
                if one.question == BAD:
                    message.row(place)[0][:, 0] = torch.nan
            return message

    found = outcomes(Spoilt(inner))
    assert [t for t, answer in by_text(found).items() if answer.fault is not None] in ([BAD], [])
    assert [t for t, answer in by_text(found, arm=0).items() if answer.fault is not None] == [BAD]


def test_the_first_error_is_on_record_not_one_that_follows() -> None:
    broken = Disturbed(channel(), sending=fails_on("Why", RuntimeError("the cause")))
    found = by_text(outcomes(broken, ("Why?", "How?")), ("Why?", "How?"))
    assert {answer.fault.message for answer in found.values() if answer.fault is not None} == {"the cause"}
    assert len(found) == 2


def test_a_question_that_is_alone_with_one_that_does_not_fit_has_no_donor() -> None:
    texts = ("Why?", "why " * 600)
    found = by_text(outcomes(channel(), texts), texts)
    assert [a.fault.type for a in found.values() if a.fault is not None] == [PromptTooLong.__name__, "NoDonor"]


def test_equal_lengths_are_paired_by_the_seed() -> None:
    requests = asked([f"question {letter}" for letter in "abcdefgh"])
    lengths = dict.fromkeys(range(8), 5)
    made = {tuple(map(tuple, batches(lengths, requests, Budget(2), mismatched(seed).place))) for seed in (0, 0, 1, 2)}
    assert len(made) == 3
    backwards = list(batches(lengths, requests[::-1], Budget(2), mismatched(0).place))
    forwards = list(batches(lengths, requests, Budget(2), mismatched(0).place))
    assert [[7 - i for i in batch] for batch in backwards] == forwards


@pytest.mark.parametrize("count", range(2, 12))
def test_everybody_gets_another_ones_message(count: int) -> None:
    lengths, requests = {i: i // 3 for i in range(count)}, asked(["?"] * count)
    units = list(batches(lengths, requests, Budget(1), mismatched().place))
    donors = Donors(lengths, units)
    assert sorted(donors.first.values()) == list(range(count))
    for own in range(count):
        listed = list(donors.of(own))
        assert listed[0] == donors.first[own]
        assert sorted(listed) == [other for other in range(count) if other != own]
        away = [abs(lengths[other] - lengths[own]) for other in listed[1:]]
        assert away == sorted(away)


def test_the_size_that_fits_the_memory_is_remembered() -> None:
    broken = Disturbed(Single(shared_lm()), sending=fails_above(4, NO_MEMORY))
    budget = Budget(16)
    for _ in range(2):
        found = list(run(broken, [Arm(broken)], asked(["Why?"] * 64), budget, [CallStats()]))
        assert all(answer.fault is None for one in found for answer in one.answers[0])
    assert [size for size in broken.sizes if size > 4] == [16, 8]
    assert len(broken.sizes) == 2 + 2 * 64 // 4


def test_the_remembered_size_is_in_tokens() -> None:
    texts = ["long " * 40] * 4 + ["Why?"] * 8
    limit = 4 * channel().prompt_length(query(texts[0]))
    broken = Disturbed(Single(shared_lm()))

    def check(queries: Sequence[Query]) -> None:
        if len(queries) * max(map(broken.prompt_length, queries)) >= limit:
            raise NO_MEMORY

    broken = replace(broken, sending=check)
    found = list(run(broken, [Arm(broken)], asked(texts), Budget(4), [CallStats()]))
    assert all(answer.fault is None for one in found for answer in one.answers[0])
    assert broken.sizes == [4, 2, 2, 4, 4]


def test_another_error_divides_only_its_own_batch() -> None:
    broken = Disturbed(Single(shared_lm()), sending=fails_on(BAD, RuntimeError("bad shape")))
    list(run(broken, [Arm(broken)], asked([BAD] + ["Why?"] * 7), Budget(4), [CallStats()]))
    assert broken.sizes[-1] == 4


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Every cache that was made."""
    made: list[weakref.ref[Any]] = []
    begin = kv_cache.KVBuffer.__init__

    def noted(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(kv_cache.KVBuffer, "__init__", noted)
    return made


def test_a_finished_cache_is_freed_without_the_collector(no_collector: None, buffers: list[weakref.ref[Any]]) -> None:
    both = channel()
    arms = [Arm(both), Arm(both, "mismatched", mismatched()), Arm(both.closed(), "closed")]
    for requests in (asked(), [Request(query(t), max_new_tokens=3) for t in TEXTS]):
        for one in run(both, arms, requests, Budget(3), [CallStats(), CallStats(), CallStats()]):
            assert all(answer.fault is None for arm in one.answers for answer in arm)
            assert not [b for b in buffers if b() is not None]
    assert buffers


def test_a_copied_cache_is_its_own_and_freed_too(no_collector: None) -> None:
    buffer = kv_cache.KVBuffer(2, 2, torch.device("cpu"), ANSWER_ROOM)
    copied = buffer.copied()
    assert copied.view.layers[0].buffer is copied
    assert buffer.view.layers[0].buffer is buffer
    gone = weakref.ref(copied)
    del copied
    assert gone() is None


def test_what_a_failed_attempt_held_is_gone_before_the_next(no_collector: None) -> None:
    held: list[weakref.ref[Any]] = []

    def receiving(queries: Sequence[Query], _: Message) -> None:
        assert not [tensor for tensor in held if tensor() is not None], "the failed attempt still holds its tensors"
        tensor = torch.zeros(4)
        held.append(weakref.ref(tensor))
        raise torch.cuda.OutOfMemoryError(f"CUDA out of memory for {tensor.shape} of {len(queries)}")

    broken = Disturbed(Single(shared_lm()), receiving=receiving)
    (found,) = run(broken, [Arm(broken), Arm(broken)], asked(TEXTS[:4]), Budget(4), [CallStats(), CallStats()])
    assert len(held) == 1 + 1 + 4 + 4 * 2  # four, two, each alone, and of each alone both arms
    assert all(answer.fault.type == "OutOfMemoryError" for arm in found.answers for answer in arm if answer.fault)


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        torch.AcceleratorError("CUDA error: unknown error"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_device_that_is_lost_ends_the_run(error: Exception) -> None:
    broken = Disturbed(channel(), receiving=fails_on(BAD, error))
    with pytest.raises(RunError, match="no longer computes .*--resume goes on"):
        outcomes(broken)
    with pytest.raises(RunError, match="no longer computes"):
        answer_one(broken, asked([BAD])[0], CallStats())
    assert max(broken.sizes) == len(TEXTS)


def test_an_error_that_follows_from_a_lost_device_ends_the_run_too() -> None:
    def follows() -> None:
        try:
            raise LOST
        except RuntimeError:
            {}["what it was"]

    with pytest.raises(RunError, match="device-side assert"):
        attempted(follows)


def test_a_device_that_is_lost_while_memory_is_given_back_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise LOST

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    with pytest.raises(RunError, match="--resume goes on"):
        attempted(lambda: 1 / 0)


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUDA out of memory. Tried to allocate 2 GiB"])
def test_too_little_memory_is_no_lost_device(words: str) -> None:
    def full() -> None:
        raise torch.AcceleratorError(words)

    failed = attempted(full)
    assert isinstance(failed, Failed)
    assert failed.memory
