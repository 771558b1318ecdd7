"""Seconds: a slowdown of 10% is caught, an unchanged build is not, and other machines or jobs are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from harness.errors import UserError
from harness.records import LoadedRun
from harness.regression import Options, check
from harness.regression.latency_check import Second, aligned_rank_p, check_latency, judge_duration
from harness.regression.verdicts import Verdict
from tests.support import regression_runs

SEEDS = 200


def timed(clock: regression_runs.Clock, late: int = 0, **changes: Any) -> list[LoadedRun]:
    """One run a round, in one job; runs with `late=1` start between those with 0."""
    made = regression_runs.timings(clock)
    return [
        regression_runs.run(
            [],
            [timing.model_copy(update={"round": 0}) for timing in made if timing.round == round_],
            **{"started_at": f"2026-01-01T10:{2 * round_ + late:02}:00+00:00", "job": "nightly 7", **changes},
        )
        for round_ in range(clock.rounds)
    ]


def judged(base: regression_runs.Clock, head: regression_runs.Clock, **changes: Any) -> list[Verdict]:
    return check_latency(timed(base), timed(head, 1, **changes), Options())


def statuses(base: regression_runs.Clock, head: regression_runs.Clock) -> list[str]:
    return [verdict.status for verdict in judged(base, head)]


def test_a_slowdown_of_ten_percent_is_caught() -> None:
    for seed in range(20):
        assert (
            statuses(regression_runs.Clock(2 * seed), regression_runs.Clock(2 * seed + 1, factor=1.1))
            == ["regression"] * 2
        )


def test_a_speed_up_is_better() -> None:
    assert statuses(regression_runs.Clock(0), regression_runs.Clock(1, factor=0.9)) == ["better"] * 2


@pytest.mark.parametrize("noise", [0.03, 0.2])
def test_unchanged_builds_alarm_at_most_in_5_percent_of_seeds(noise: float) -> None:
    clock = regression_runs.Clock(0, noise=noise, arms=regression_runs.ARMS)
    alarms = sum(
        "regression" in statuses(replace(clock, seed=2 * seed), replace(clock, seed=2 * seed + 1))
        for seed in range(SEEDS)
    )
    assert alarms <= 0.05 * SEEDS


def test_what_is_not_repeated_is_a_warning() -> None:
    slow_once = [regression_runs.Clock(0, factor, noise=1e-3, questions=40, rounds=1) for factor in (1.04, 1.5)]
    heads = [
        regression_runs.altered(run, started_at=f"2026-01-01T10:0{2 * turn + 1}:00Z")
        for turn, clock in enumerate(slow_once)
        for run in timed(clock)
    ]
    verdicts = check_latency(timed(regression_runs.Clock(1, noise=1e-3, questions=40)), heads, Options())
    assert [v.status for v in verdicts] == ["warning"] * 2
    assert "not repeated" in verdicts[0].text


@pytest.mark.parametrize("turns", ["BH", "BBHH", "BHB", "BHHHBB", "HHBB"])
def test_sides_that_did_not_take_turns_are_not_compared(turns: str) -> None:
    sides: dict[str, list[LoadedRun]] = {"B": [], "H": []}
    for minute, side in enumerate(turns):
        clock = regression_runs.Clock(minute, rounds=1, factor=5.0 if side == "H" else 1.0)
        sides[side] += timed(clock, started_at=f"2026-01-01T10:{minute:02}:00Z")
    (verdict,) = check_latency(sides["B"], sides["H"], Options())
    assert (verdict.status, verdict.failing) == ("not comparable", False)
    assert "did not take turns" in verdict.text


def test_pairs_may_begin_with_either_side() -> None:
    base, head = timed(regression_runs.Clock(0)), timed(regression_runs.Clock(1, factor=1.1), 1)
    swapped = [head[0], regression_runs.altered(head[1], started_at="2026-01-01T10:01:30Z")]
    assert [v.status for v in check_latency(base, swapped, Options())] == ["regression"] * 2


def test_only_the_same_work_is_compared() -> None:
    base, head = timed(regression_runs.Clock(0)), timed(regression_runs.Clock(0), 1)
    longer = [
        replace(run, timings=[t.model_copy(update={"tokens_out": 16, "e2e_s": 2 * t.e2e_s}) for t in run.timings])
        for run in head
    ]
    verdicts = check_latency(base, longer, Options())
    assert [v.status for v in verdicts] == ["warning"] * 2
    assert "0 and 0 timings of the same work" in verdicts[0].text


def test_an_arm_without_timings_is_a_warning() -> None:
    clock = regression_runs.Clock(0, arms=regression_runs.ARMS)
    head = [replace(run, timings=[t for t in run.timings if t.channel != "c2c"]) for run in timed(clock, 1)]
    assert [v.status for v in check_latency(timed(clock), head, Options())] == ["warning"] * 4 + ["same"] * 2


@pytest.mark.parametrize("broken_s", [float("nan"), float("inf"), 0.0, -1.0])
def test_broken_seconds_are_counted_and_refused(broken_s: float) -> None:
    good = [Second(("q", 8), r, 0.5) for r in range(20)]
    verdict = judge_duration("here", good, [*good[1:], Second(("q", 8), 0, broken_s)], Options())
    assert verdict.status == "not comparable"
    assert "1 of 40" in verdict.text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hardware": regression_runs.OTHER_MACHINE}, "hardware fingerprints differ"),
        ({"hardware": regression_runs.MACHINE.model_copy(update={"fingerprint": ""})}, "hardware fingerprints differ"),
        ({"job": "nightly 8"}, "different jobs"),
        ({"job": ""}, "different jobs"),
    ],
)
def test_other_machines_and_jobs_are_said_and_fail_nothing(changes: dict[str, Any], word: str) -> None:
    (verdict,) = judged(regression_runs.Clock(0), regression_runs.Clock(1, factor=5.0), **changes)
    assert (verdict.status, verdict.failing) == ("not comparable", False)
    assert word in verdict.text


def test_runs_that_name_no_job_are_not_compared() -> None:
    sides = [timed(regression_runs.Clock(side, factor=1 + 4 * side), side, job="") for side in (0, 1)]
    assert "do not name one" in check_latency(sides[0], sides[1], Options())[0].text


def under_load(runs: list[LoadedRun], others: float) -> list[LoadedRun]:
    """The same seconds with the processors' part in them: one own thread, and so many cores of others."""
    return [
        replace(run, timings=[t.model_copy(update={"cpu_s": t.e2e_s, "load": 1 + others}) for t in run.timings])
        for run in runs
    ]


@pytest.mark.parametrize("busy", ["base", "head", "both", "one run"])
def test_a_busy_machine_is_said_and_not_judged(busy: str) -> None:
    base, head = timed(regression_runs.Clock(0)), timed(regression_runs.Clock(1, factor=5.0), 1)
    base = under_load(base, 1.9 if busy in ("base", "both") else 0.0)
    head = [*under_load(head[:1], 0.0 if busy == "base" else 1.9), *under_load(head[1:], 1.9 * (busy == "head"))]
    verdicts = check_latency(base, head, Options())
    assert [verdict.status for verdict in verdicts] == ["warning"]
    assert "the machine was busy: other processes used" in verdicts[0].text


def test_the_same_build_beside_busy_processes_is_no_regression() -> None:
    """Five times the seconds, measured while four loops kept the machine busy, with every answer equal."""
    base = under_load([replace(run, samples=regression_runs.answers()) for run in timed(regression_runs.Clock(0))], 0.0)
    head = [replace(run, samples=regression_runs.answers()) for run in timed(regression_runs.Clock(1, factor=5.099), 1)]
    report = check(base, under_load(head, 4.0))
    assert (report.exit_code, report.count("regression")) == (0, 0)
    assert "the machine was busy: other processes used 0.0 of 2 cores beside the baseline, 4.0" in str(report.verdicts)
    assert check(base, under_load(head, 0.0)).exit_code == 1


def test_an_idle_machine_is_judged() -> None:
    base, head = timed(regression_runs.Clock(0)), timed(regression_runs.Clock(1, factor=1.1), 1)
    verdicts = check_latency(under_load(base, 0.1), under_load(head, 0.1), Options())
    assert [verdict.status for verdict in verdicts] == ["regression"] * 2


def test_cores_that_a_run_leaves_free_are_free_for_others() -> None:
    spacious = regression_runs.MACHINE.model_copy(update={"cores": 8, "threads": 1})
    base, head = (
        timed(regression_runs.Clock(0), hardware=spacious),
        timed(regression_runs.Clock(1, factor=1.1), 1, hardware=spacious),
    )
    verdicts = check_latency(under_load(base, 1.9), under_load(head, 1.9), Options())
    assert [verdict.status for verdict in verdicts] == ["regression"] * 2


def test_one_side_without_timings_is_said_and_two_are_silent() -> None:
    base, bare = timed(regression_runs.Clock(0)), [regression_runs.run([])]
    for sides, word in (((base, bare), "run has no timings"), ((bare, base), "baseline has no timings")):
        (verdict,) = check_latency(*sides, Options())
        assert word in verdict.text
        assert not verdict.failing
    assert check_latency(bare, bare, Options()) == []


def test_a_time_that_is_none_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no ISO 8601 time"):
        judged(regression_runs.Clock(0), regression_runs.Clock(1), started_at="yesterday")


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
