"""An alarm takes evidence: unchanged runs pass over hundreds of seeds, a loss of 3 points does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.records import LoadedRun
from harness.records.schema import Sample
from harness.regression import Options, check
from harness.regression.accuracy_check import _test
from harness.regression.pairing import arm_pairs
from harness.regression.verdicts import Verdict
from tests.support import regression_runs

SEEDS = 200
N = 300


class Pool:
    """Each question has its own chance to be answered right or not to parse, the same for every seed."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.right = rng.beta(1.2, 1.2, (len(regression_runs.ARMS), n))
        self.outcomes = [
            [[self._variant(i, arm, outcome) for outcome in range(3)] for i in range(n)] for arm in regression_runs.ARMS
        ]

    @staticmethod
    def _variant(i: int, arm: tuple[str, str], outcome: int) -> Sample:
        made = regression_runs.sample(i, outcome == 0, arm)
        return made if outcome < 2 else made.model_copy(update={"predicted": None, "text": "?"})

    def run(self, seed: int, harm: float = 0.0) -> LoadedRun:
        """Draws the answers of one run; `harm` is the share of answers turned wrong."""
        rng = np.random.default_rng(seed)
        right = (rng.random(self.right.shape) < self.right) & (rng.random(self.right.shape) >= harm)
        outcome = np.where(right, 0, 1 + (rng.random(self.right.shape) < 0.05))
        samples = [
            pool[k] for arm, row in zip(self.outcomes, outcome, strict=True) for pool, k in zip(arm, row, strict=True)
        ]
        return regression_runs.run(samples, identity=f"{seed:064d}")


def test_unchanged_runs_alarm_at_most_in_5_percent_of_seeds() -> None:
    pool = Pool(N)
    alarms = sum(check(pool.run(2 * seed), pool.run(2 * seed + 1)).exit_code == 1 for seed in range(SEEDS))
    assert alarms <= 0.05 * SEEDS


def flipped(share: float, n: int = 2000) -> list[Sample]:
    """Turns the first right answers of the C2C arm wrong: `share` of all of its answers."""
    base = regression_runs.answers(n)
    right = [s for s in base if s.arm == ("c2c", "") and s.correct]
    turned = {s.doc_id for s in right[: round(share * n)]}
    return [
        regression_runs.sample(s.position, False) if s.arm == ("c2c", "") and s.doc_id in turned else s for s in base
    ]


@pytest.mark.parametrize("identity", ["a" * 64, "b" * 64])
def test_three_percent_of_answers_turned_wrong_are_caught(identity: str) -> None:
    report = check(
        regression_runs.run(regression_runs.answers(2000)), regression_runs.run(flipped(0.03), identity=identity)
    )
    assert report.exit_code == 1
    assert [verdict.subject for verdict in report.verdicts if verdict.status == "regression"] == ["openbookqa c2c"]


def accuracy_of_c2c(samples: list[Sample], base: list[Sample], options: Options | None = None) -> Verdict:
    report = check(regression_runs.run(base), regression_runs.run(samples, identity="b" * 64), options)
    return next(v for v in report.verdicts if v.check == "accuracy" and v.subject.endswith(" c2c"))


def test_a_loss_within_the_margin_is_no_regression() -> None:
    base, worse = regression_runs.answers(2000), flipped(0.03)
    assert accuracy_of_c2c(worse, base, Options(margin_points=5)).status == "same"
    assert accuracy_of_c2c(worse, base, Options(margin_points=2)).status == "regression"


def test_too_few_questions_are_not_shown_and_name_what_could_hide() -> None:
    verdict = accuracy_of_c2c(flipped(0.05, n=20), regression_runs.answers(20))
    assert verdict.status == "not shown"
    assert "not shown at this n: a loss of up to" in verdict.text


def test_a_gain_is_better() -> None:
    assert accuracy_of_c2c(regression_runs.answers(2000), flipped(0.03)).status == "better"


def test_answers_that_no_longer_parse_are_a_verdict_of_their_own() -> None:
    base = regression_runs.answers(400)
    mute = [s.model_copy(update={"predicted": None}) if not s.correct and s.position % 4 == 1 else s for s in base]
    report = check(regression_runs.run(base), regression_runs.run(mute, identity="b" * 64))
    caught = [verdict for verdict in report.verdicts if verdict.status == "regression"]
    assert {verdict.check for verdict in caught} == {"invalid"}
    assert "valid answers 100.0 -> 75.0" in caught[0].text


def test_small_tasks_are_judged_together_as_well() -> None:
    tasks = [f"subject{i}" for i in range(20)]
    known: dict[str, Any] = {"datasets": dict.fromkeys(tasks, "d"), "task_versions": dict.fromkeys(tasks, "1")}
    arm = [("c2c", "")]
    base = [s for task in tasks for s in regression_runs.answers(50, arm, task=task)]
    worse = [regression_runs.sample(s.position, False, task=s.task) if s.position < 4 else s for s in base]
    report = check(regression_runs.run(base, **known), regression_runs.run(worse, identity="b" * 64, **known))
    assert [v.subject for v in report.verdicts if v.status == "regression"] == ["all tasks c2c"]


def test_the_tasks_of_a_stratified_group_are_parts_of_fixed_size() -> None:
    """Differences between strata say nothing of the chance within one: less could hide."""

    def half(task: str, right: int) -> list[Sample]:
        made = [regression_runs.sample(i, i < right) for i in range(200)]
        return [one.model_copy(update={"task": task, "doc_id": f"{task}-{one.doc_id}"}) for one in made]

    def hidden(strata: list[str]) -> float:
        shape: dict[str, Any] = {"groups": {"whole": ["one", "two"]}, "strata": strata}
        base = regression_runs.run([*half("one", 100), *half("two", 100)], **shape)
        head = regression_runs.run([*half("one", 101), *half("two", 60)], identity="b" * 64, **shape)
        (pair,) = [one for one in arm_pairs(base, head) if one.pooled]
        assert pair.stratified == bool(strata)
        return _test("accuracy", pair, lambda s: bool(s.correct), Options()).difference.interval.low

    assert hidden(["whole"]) > hidden([])
