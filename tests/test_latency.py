"""What stands inside a timed answer: each channel reads its prompts once, whatever happened before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from helpers.tiny import fused, shared_lm
from helpers.work import query

from harness import prompts
from harness.accuracy import Item
from harness.channels.base import Channel, Work
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.engine import Arm, Budget, Request, run
from harness.latency import ROUNDS, Turn, time_questions

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
    list(run(channel, [Arm(channel)], [asked.request], Budget(1), [Work()]))  # an accuracy pass remembers its plans
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
