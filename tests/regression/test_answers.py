"""One identity: equal answers to the letter, loglikelihoods to 1e-4, and only on one kind of hardware."""

from typing import Any

import pytest

from harness.regression import Options, check
from harness.regression.exact_check import same_answer
from tests.support import regression_runs


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, True),
        ({"text": "The correct answer is A. "}, False),
        ({"text": None}, True),
        ({"predicted": None}, False),
        ({"predicted_strict": None}, False),
        ({"loglikelihoods": [-1.00009, -2.0]}, True),
        ({"loglikelihoods": [-1.00011, -2.0]}, False),
        ({"loglikelihoods": [-1.0]}, False),
        ({"loglikelihoods": [float("nan"), -2.0]}, False),
        ({"entropy": 0.5, "payload_bytes": 7}, True),
    ],
)
def test_what_counts_as_the_same_answer(changes: dict[str, Any], equal: bool) -> None:
    base = regression_runs.sample(0, loglikelihoods=[-1.0, -2.0])
    assert same_answer(base, base.model_copy(update=changes)) is equal


BASE = regression_runs.run(regression_runs.answers(100))


def one_changed() -> list[Any]:
    return [BASE.samples[0].model_copy(update={"text": "A!"}), *BASE.samples[1:]]


def test_one_changed_answer_is_caught() -> None:
    report = check(BASE, regression_runs.run(one_changed()))
    assert report.exit_code == 1
    assert "1 of 100 answers changed under one identity, first 'q0'" in report.verdicts[0].text


def test_on_other_hardware_a_changed_answer_is_a_warning_and_counts_are_not_compared() -> None:
    report = check(BASE, regression_runs.run(one_changed(), hardware=regression_runs.OTHER_MACHINE, counters={}))
    assert report.exit_code == 0
    assert "the hardware differs" in next(
        v.text for v in report.verdicts if v.check == "answers" and v.status == "warning"
    )
    assert [v.check for v in report.verdicts if v.subject == "openbookqa receiver"] == ["accuracy", "answers"]


def test_equality_can_be_left_out() -> None:
    report = check(BASE, regression_runs.run(one_changed()), Options(exact=False))
    assert {verdict.check for verdict in report.verdicts} == {"accuracy"}


def test_an_unknown_identity_equals_none() -> None:
    nameless = regression_runs.altered(BASE, identity="")
    assert {verdict.check for verdict in check(nameless, nameless).verdicts} == {"accuracy"}
