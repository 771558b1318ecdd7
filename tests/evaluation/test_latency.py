"""What stands inside a timed answer: each channel reads its prompts once, whatever happened before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness.benchmarks.questions import Item
from harness.channels.engine import Arm, run
from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.evaluation import latency_pass
from harness.evaluation.latency_pass import ROUNDS, Turn, time_questions
from harness.inference.batching import Budget
from harness.inference.types import CallStats, Request
from harness.models import chat as prompts
from tests.support.tiny import fused, shared_lm
from tests.support.work import query

DOCUMENT = {"id": "q", "question": "Why?", "choices": ["x", "y"], "labels": ["A", "B"], "key": "A"}


def channels() -> list[Channel]:
    receiver, sharer = shared_lm("qwen3"), shared_lm("llama", seed=1)
    written = TextToText(receiver, sharer, TextVariant(max_new_tokens=3))
    return [Single(receiver), Single(sharer, "sharer"), written, fused(receiver, sharer)]


def item() -> Item:
    asked = replace(query("Why is the sky blue?"), question="Why?", room=4)
    return Item("t", 0, DOCUMENT, Request(asked, max_new_tokens=4))


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    original = prompts.tokenize

    def counting(lm: Any, text: str, chat: bool) -> tuple[int, ...]:
        counted["calls"] += 1
        return original(lm, text, chat)

    monkeypatch.setattr(prompts, "tokenize", counting)
    return counted


@pytest.mark.parametrize(("number", "prompts_read"), [(0, 1), (1, 1), (2, 2), (3, 1)])
def test_a_timed_answer_pays_once_for_each_prompt(number: int, prompts_read: int, tokenised: Counter[str]) -> None:
    channel, asked = channels()[number], item()
    list(
        run(channel, [Arm(channel)], [asked.request], Budget(1), [CallStats()])
    )  # an accuracy pass remembers its plans
    tokenised.clear()
    timings = [t for turn in time_questions([channel], [asked], {}, warm_up=0) for t in turn.timings]
    assert len(timings) == ROUNDS
    assert tokenised["calls"] == ROUNDS * prompts_read


def test_a_length_beyond_the_context_is_not_timed() -> None:
    assert list(time_questions(channels()[:1], [item()], {}, 0, equal_tokens=10**9)) == [Turn([], 1)] * ROUNDS


def test_a_timed_answer_that_fails_has_no_timing() -> None:
    asked = item()
    endless = replace(asked, request=replace(asked.request, query=replace(asked.request.query, room=10**9)))
    assert list(time_questions(channels()[:1], [endless], {}, warm_up=0)) == [Turn([], 1)] * ROUNDS


def test_a_timing_has_the_processor_time_of_the_process_and_of_the_machine() -> None:
    asked = item()
    timings = [t for turn in time_questions(channels()[:1], [asked], {}, warm_up=0) for t in turn.timings]
    assert all(t.cpu_s is not None and t.cpu_s > 0 and t.load is not None and t.load >= 0 for t in timings)


def test_the_load_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([(10.0, 1.0, {"user": 5.0, "idle": 9.0}), (12.0, 2.5, {"user": 6.0, "idle": 9.0, "steal": 2.0})])

    def read() -> latency_pass.Moment:
        wall_s, own_s, times = next(clocks)
        monkeypatch.setattr(latency_pass.time, "perf_counter", lambda: wall_s)
        monkeypatch.setattr(latency_pass.time, "process_time", lambda: own_s)
        monkeypatch.setattr(latency_pass.psutil, "cpu_times", lambda: SimpleNamespace(**times))
        return latency_pass.read_clocks()

    first, last = read(), read()
    monkeypatch.setattr(latency_pass, "read_clocks", lambda: last)
    assert latency_pass.spent_since(first) == latency_pass.Spent(cpu_s=1.5, load=1.5)
