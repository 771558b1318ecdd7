"""What was asked: differences in questions are refused or named, never read as differences in answers."""

from typing import Any

import pytest

from harness.records.schema import Failure
from harness.regression import Report, check
from tests.support import regression_runs

BASE = regression_runs.run(regression_runs.answers(20))


def texts(report: Report, status: str) -> list[str]:
    return [verdict.line for verdict in report.verdicts if verdict.status == status]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"datasets": {regression_runs.TASK: "e" * 64}}, "dataset fingerprint differs"),
        ({"datasets": {}}, "dataset fingerprint differs"),
        ({"task_versions": {regression_runs.TASK: "2"}}, "task version differs"),
        ({"schema_version": 99}, "schema version 99"),
    ],
)
def test_other_questions_are_not_comparable(changes: dict[str, Any], word: str) -> None:
    report = check(BASE, regression_runs.altered(BASE, **changes))
    assert report.exit_code == 2
    assert len(report.verdicts) == 1
    assert word in report.verdicts[0].text


def test_other_tasks_are_not_comparable() -> None:
    report = check(BASE, regression_runs.run(regression_runs.answers(20, task="arc"), datasets={"arc": "d" * 64}))
    assert report.exit_code == 2
    assert "lacks tasks of the baseline (openbookqa)" in report.verdicts[0].text


def test_another_kind_of_scoring_is_not_comparable() -> None:
    report = check(BASE, regression_runs.run(regression_runs.answers(20, kind="letters", text=None)))
    assert report.exit_code == 2
    assert "kind of scoring differs" in report.verdicts[0].text


@pytest.mark.parametrize("status", ["started", "error", "cancelled"])
def test_an_unfinished_baseline_is_none(status: str) -> None:
    assert check(regression_runs.altered(BASE, status=status), BASE).exit_code == 2


def test_an_empty_baseline_is_none() -> None:
    assert check(regression_runs.run([]), BASE).exit_code == 2


def test_an_unfinished_run_is_a_regression() -> None:
    assert check(BASE, regression_runs.altered(BASE, status="error")).exit_code == 1


def test_an_absent_arm_is_a_regression() -> None:
    report = check(BASE, regression_runs.run(regression_runs.answers(20, regression_runs.ARMS[:2])))
    assert report.exit_code == 1
    assert "openbookqa c2c/mean: in the baseline, but not in the run" in texts(report, "regression")[0]


def test_a_new_arm_is_named_and_passes() -> None:
    report = check(regression_runs.run(regression_runs.answers(20, regression_runs.ARMS[:2])), BASE)
    assert report.exit_code == 0
    assert "c2c/mean: not in the baseline" in texts(report, "warning")[0]


def test_fewer_questions_are_a_regression() -> None:
    report = check(BASE, regression_runs.run(BASE.samples[1:]))
    assert report.exit_code == 1
    assert "19 of the baseline's 20 questions" in texts(report, "regression")[0]


def test_more_questions_are_named_and_pass() -> None:
    report = check(regression_runs.run(BASE.samples[1:]), BASE)
    assert report.exit_code == 0
    assert "1 questions are not in the baseline" in texts(report, "warning")[0]


def failing(count: int) -> list[Any]:
    unscored = {"correct": None, "predicted": None, "error": Failure(type="OutOfMemoryError", message="full")}
    return [sample.model_copy(update=unscored) for sample in BASE.samples[:count]] + BASE.samples[count:]


def test_one_more_error_is_a_regression() -> None:
    report = check(regression_runs.run(failing(1)), regression_runs.run(failing(2)))
    assert report.exit_code == 1
    assert "1 -> 2 questions without an answer, of 20" in texts(report, "regression")[0]


def test_fewer_errors_are_better() -> None:
    report = check(regression_runs.run(failing(2)), regression_runs.run(failing(1)))
    assert report.exit_code == 0
    assert len(texts(report, "better")) == 1


def test_errors_that_moved_to_other_questions_are_a_regression() -> None:
    moved = [*BASE.samples[:1], *failing(2)[1:]]
    report = check(regression_runs.run(failing(1)), regression_runs.run(moved))
    assert report.exit_code == 1
    assert "1 -> 1 questions without an answer, of 20, 1 of them new" in texts(report, "regression")[0]


@pytest.mark.parametrize("harm", ["status", "garbage", "part"])
def test_a_later_repetition_is_checked_as_the_first(harm: str) -> None:
    good = regression_runs.run(BASE.samples)
    wrong = [sample.model_copy(update={"predicted": "B", "text": "garbage"}) for sample in BASE.samples]
    bad = {
        "status": lambda: regression_runs.run(BASE.samples, status="error"),
        "garbage": lambda: regression_runs.run(wrong),
        "part": lambda: regression_runs.run(BASE.samples[:4]),
    }[harm]()
    assert check([good, good], [good, good]).exit_code == 0
    report = check([good, good], [good, bad])
    assert report.exit_code == 1
    assert "repetition 2" in next(v.subject for v in report.verdicts if v.status == "regression")


def test_a_baseline_with_an_unfinished_repetition_is_none() -> None:
    good, bad = regression_runs.run(BASE.samples), regression_runs.run(BASE.samples, status="error")
    report = check([good, bad], [good, good])
    assert report.exit_code == 2
    assert "Repetition 2: The baseline has status 'error'" in report.verdicts[0].text
