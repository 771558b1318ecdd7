"""A run that fails too often says how it began to fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import RunError
from harness.evaluation.accuracy_pass import stop_on_errors
from harness.records.schema import Failure
from tests.support.regression_runs import sample


def test_the_first_error_is_quoted() -> None:
    failed = [sample(i, control="boom", error=Failure(type="E", message=f"error {i}"), correct=None) for i in range(3)]
    session: Any = SimpleNamespace(
        samples=[sample(9), *failed],
        cast=SimpleNamespace(groups=[SimpleNamespace(controls=())]),
        config=SimpleNamespace(max_error_rate=0.0),
        benchmark=SimpleNamespace(all_items=range(4)),
    )
    with pytest.raises(RunError, match=r"3 of 4 samples failed, .*; the first said: c2c/boom: E: error 0$"):
        stop_on_errors(session)
