"""Counts are exact: one call more is caught."""

from typing import Any

import pytest

from harness.regression.exact_check import check_counts
from tests.support import regression_runs

COUNTERS = {"c2c": {"forwards": 100, "bytes": 5}, "receiver": {"forwards": 50}}


def statuses(**changes: Any) -> list[str]:
    base = regression_runs.run([], counters=COUNTERS)
    return [
        verdict.status for verdict in check_counts(base, regression_runs.run([], **{"counters": COUNTERS, **changes}))
    ]


@pytest.mark.parametrize(
    ("c2c", "expected"),
    [
        ({"forwards": 100, "bytes": 5}, ["same"]),
        ({"forwards": 101, "bytes": 5}, ["regression"]),
        ({"forwards": 99, "bytes": 5}, ["better"]),
        ({"forwards": 99, "bytes": 6}, ["regression", "better"]),
        ({"forwards": 100}, ["regression"]),
        ({"forwards": 100, "bytes": 5, "host_syncs": 3}, ["same"]),
    ],
)
def test_one_arm(c2c: dict[str, int], expected: list[str]) -> None:
    assert statuses(counters={**COUNTERS, "c2c": c2c}) == [*expected, "same"]


def test_an_arm_that_is_no_longer_counted_is_a_regression() -> None:
    assert statuses(counters={"c2c": COUNTERS["c2c"]}) == ["same", "regression"]


@pytest.mark.parametrize("changes", [{"config": {"batch_size": 1}}, {"resumed": 3}])
def test_other_work_is_not_compared(changes: dict[str, Any]) -> None:
    assert statuses(**changes) == ["warning"]
