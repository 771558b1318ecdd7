"""Seconds: a slowdown of 10% is caught, an unchanged build is not, and other machines or jobs are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from harness.errors import UserError
from harness.records import LoadedRun
from harness.regression import Options
from harness.regression.latency import latency
from harness.regression.ranks import aligned_rank_p
from harness.regression.seconds import Second, judge

from . import build

SEEDS = 200


def timed(clock: build.Clock, **changes: Any) -> LoadedRun:
    return build.run([], build.timings(clock), **changes)


def statuses(base: LoadedRun, head: LoadedRun) -> list[str]:
    return [verdict.status for verdict in latency([base], [head], Options()) if verdict.subject]


def test_a_slowdown_of_ten_percent_is_caught() -> None:
    for seed in range(20):
        assert (
            statuses(timed(build.Clock(2 * seed)), timed(build.Clock(2 * seed + 1, factor=1.1))) == ["regression"] * 2
        )


def test_a_speed_up_is_better() -> None:
    assert statuses(timed(build.Clock(0)), timed(build.Clock(1, factor=0.9))) == ["better"] * 2


@pytest.mark.parametrize("noise", [0.03, 0.2])
def test_unchanged_builds_alarm_at_most_in_5_percent_of_seeds(noise: float) -> None:
    clock = build.Clock(0, noise=noise, arms=build.ARMS)
    alarms = sum(
        "regression" in statuses(timed(replace(clock, seed=2 * seed)), timed(replace(clock, seed=2 * seed + 1)))
        for seed in range(SEEDS)
    )
    assert alarms <= 0.05 * SEEDS


def test_what_is_not_repeated_is_a_warning() -> None:
    slow_once = [
        build.timing(i, ("c2c", ""), r, 0.5 * (1.5 if r else 1.0) + i / 1e4) for r in range(2) for i in range(30)
    ]
    even = [build.timing(i, ("c2c", ""), r, 0.5 + i / 1e4) for r in range(2) for i in range(30)]
    verdicts = [v for v in latency([build.run([], even)], [build.run([], slow_once)], Options()) if v.subject]
    assert [v.status for v in verdicts] == ["warning"] * 2
    assert "not repeated" in verdicts[0].text


def test_one_round_cannot_repeat() -> None:
    clock = build.Clock(0, rounds=1)
    assert statuses(timed(clock), timed(replace(clock, seed=1, factor=1.3))) == ["warning"] * 2


def test_repetitions_are_rounds() -> None:
    base = [timed(build.Clock(seed, rounds=1), started_at=f"2026-01-01T10:0{2 * seed}:00Z") for seed in range(2)]
    head = [
        timed(build.Clock(9 + seed, rounds=1, factor=1.1), started_at=f"2026-01-01T10:0{2 * seed + 1}:00Z")
        for seed in range(2)
    ]
    verdicts = latency(base, head, Options())
    assert [verdict.status for verdict in verdicts] == ["regression"] * 2


def test_only_the_same_work_is_compared() -> None:
    base = timed(build.Clock(0))
    longer = [t.model_copy(update={"tokens_out": 16, "e2e_s": 2 * t.e2e_s}) for t in base.timings]
    verdicts = [v for v in latency([base], [replace(base, timings=longer)], Options()) if v.subject]
    assert [v.status for v in verdicts] == ["warning"] * 2
    assert "0 and 0 timings of the same work" in verdicts[0].text


def test_an_arm_without_timings_is_a_warning() -> None:
    base = timed(build.Clock(0, arms=build.ARMS))
    head = replace(base, timings=[t for t in base.timings if t.channel != "c2c"])
    assert statuses(base, head) == ["warning"] * 4 + ["same"] * 2


@pytest.mark.parametrize("broken_s", [float("nan"), float("inf"), 0.0, -1.0])
def test_broken_seconds_are_counted_and_refused(broken_s: float) -> None:
    good = [Second(("q", 8), r, 0.5) for r in range(20)]
    verdict = judge("here", good, [*good[1:], Second(("q", 8), 0, broken_s)], Options())
    assert verdict.status == "not comparable"
    assert "1 of 40" in verdict.text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hardware": build.OTHER_MACHINE}, "hardware fingerprints differ"),
        ({"hardware": build.MACHINE.model_copy(update={"fingerprint": ""})}, "hardware fingerprints differ"),
        ({"started_at": "2026-01-01T17:00:00+00:00"}, "6 hours apart"),
        ({"started_at": "2026-01-01T17:00:00+05:00"}, ""),
    ],
)
def test_other_machines_and_jobs_are_refused(changes: dict[str, Any], word: str) -> None:
    base = timed(build.Clock(0))
    refused = [
        v.text for v in latency([base], [build.altered(base, **changes)], Options()) if v.status == "not comparable"
    ]
    assert [word in text for text in refused] == ([True] if word else [])


def test_one_side_without_timings_is_refused_and_two_are_silent() -> None:
    base, bare = timed(build.Clock(0)), build.run([])
    assert "run has no timings" in latency([base], [bare], Options())[0].text
    assert "baseline has no timings" in latency([bare], [base], Options())[0].text
    assert latency([bare], [bare], Options()) == []


def test_a_time_that_is_none_is_one_sentence() -> None:
    base = timed(build.Clock(0))
    with pytest.raises(UserError, match="no ISO 8601 time"):
        latency([base], [build.altered(base, started_at="yesterday")], Options())


def test_one_question_gives_the_mann_whitney_test() -> None:
    rng = np.random.default_rng(0)
    base, head = np.round(rng.lognormal(size=15), 1) + 0.1, np.round(rng.lognormal(0.5, size=12), 1) + 0.1
    expected = mannwhitneyu(base, head, method="asymptotic", use_continuity=False).pvalue
    assert aligned_rank_p({"q": (list(base), list(head))}) == pytest.approx(expected, abs=1e-12)


def test_the_rank_test_holds_its_level() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.lognormal(0, 1, (4000, 20, 1)) * rng.lognormal(0, 0.1, (4000, 20, 4))
    p = [aligned_rank_p({i: (list(q[:2]), list(q[2:])) for i, q in enumerate(case)}) for case in drawn]
    assert 0.035 < np.mean(np.array(p) < 0.05) < 0.065


def test_equal_seconds_differ_in_nothing() -> None:
    assert aligned_rank_p({"q": ([1.0, 1.0], [1.0, 1.0])}) == 1.0
