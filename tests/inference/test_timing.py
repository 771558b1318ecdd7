"""Every stage wraps exactly one call, on a clock that only a call of a model moves."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from harness.channels import c2c, prompt_layout
from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.inference import forward
from harness.inference import generate as decoding
from harness.inference.generate import generate
from harness.inference.types import STAGES, CallStats, Clock, silent_clock, tpot_s
from tests.support.tiny import fused, shared_lm
from tests.support.work import query

CALL_S = 1.0
CPU = torch.device("cpu")


class FakeTime:
    """Time that passes only while a model runs."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake, real = FakeTime(), forward.extend

    def slow(*args: Any, **more: Any) -> Any:
        fake.now_s += CALL_S
        return real(*args, **more)

    for module in (prompt_layout, c2c, decoding):
        monkeypatch.setattr(module, "extend", slow)
    monkeypatch.setattr(time, "perf_counter", fake.perf_counter)
    return fake


def timed(channel: Channel, tokens: int) -> Clock:
    work, queries = CallStats(clock=Clock(CPU)), [query("Why?")]
    with torch.inference_mode():
        work.clock.mark("start")
        context = channel.receive(queries, channel.send(queries, work), work)
        with work.clock.stage("receiver_decode"):
            generate(context, tokens, [()], work, exactly=tokens)
        work.clock.mark("end")
    return work.clock


CASES = [
    ("receiver", {"receiver_prefill": 1, "receiver_decode": 2}, 1),
    ("sharer", {"sharer_prefill": 1, "receiver_decode": 2}, 1),
    ("c2c", {"sharer_prefill": 1, "message_transfer": 0, "receiver_prefill": 2, "fusion": 0, "receiver_decode": 2}, 3),
    ("closed", {"receiver_prefill": 1, "receiver_decode": 2}, 1),
    (
        "t2t",
        {"sharer_prefill": 1, "sharer_decode": 3, "message_transfer": 0, "receiver_prefill": 1, "receiver_decode": 2},
        5,
    ),
]


def _channel(name: str) -> Channel:
    receiver, sharer = shared_lm(), shared_lm("qwen2", 1)
    made: dict[str, Channel] = {
        "receiver": Single(receiver),
        "sharer": Single(sharer, "sharer", role="sharer"),
        "c2c": fused(receiver, sharer),
        "closed": fused(receiver, sharer).closed(),
        "t2t": TextToText(receiver, sharer, TextVariant(max_new_tokens=4)),
    }
    return made[name]


@pytest.mark.parametrize(("name", "calls", "first"), CASES)
def test_each_stage_holds_exactly_its_own_calls(
    fake_time: FakeTime, name: str, calls: dict[str, int], first: int
) -> None:
    clock = timed(_channel(name), 3)
    stages_s = clock.stages_s()
    assert stages_s == {stage: n * CALL_S for stage, n in calls.items()}
    assert set(stages_s) <= set(STAGES)
    assert clock.since_start_s("first_token") == first * CALL_S
    assert clock.since_start_s("end") == sum(stages_s.values())


def test_the_stages_of_real_time_fit_into_the_whole() -> None:
    clock = timed(_channel("c2c"), 3)
    stages_s = clock.stages_s()
    assert all(s >= 0 for s in stages_s.values())
    assert sum(stages_s.values()) <= clock.since_start_s("end")
    assert 0 < clock.since_start_s("first_token") <= clock.since_start_s("end")


def test_a_silent_clock_asks_for_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> float:
        raise AssertionError("a silent clock looked at the time")

    monkeypatch.setattr(time, "perf_counter", forbidden)
    clock = silent_clock()
    clock.mark("start")
    with clock.stage("fusion"):
        pass
    assert clock.stages_s() == {}


def test_a_stage_that_fails_is_not_reported() -> None:
    clock = Clock(CPU)
    with pytest.raises(RuntimeError), clock.stage("fusion"):
        raise RuntimeError
    assert clock.stages_s() == {}


def test_time_per_token_needs_two_tokens() -> None:
    assert tpot_s(5.0, 1.0, 5) == 1.0
    assert tpot_s(5.0, 1.0, 1) is None
    assert tpot_s(5.0, 5.0, 0) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_events_give_seconds() -> None:
    clock = Clock(torch.device("cuda"))
    clock.mark("start")
    with clock.stage("fusion"):
        torch.ones(1000, 1000, device="cuda").sum()
    clock.mark("end")
    assert 0 < clock.stages_s()["fusion"] <= clock.since_start_s("end")
