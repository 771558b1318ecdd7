"""Same, not shown and regression: what each takes, and which of them fails a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness import cli
from harness.records import LoadedRun
from harness.records.schema import Git, ModelInfo, Sample
from harness.regression import Options, Report, check
from harness.regression.check import junit
from tests.support import regression_runs

ARM = [("c2c", "")]


def turned(n: int, lost: int, won: int, right: int, **changes: Any) -> list[Sample]:
    """Answers to the questions of `answered`, of which some turned wrong and some right."""
    return [regression_runs.sample(i, lost <= i < right or right <= i < right + won, **changes) for i in range(n)]


def answered(n: int, right: int, **changes: Any) -> list[Sample]:
    return [regression_runs.sample(i, i < right, **changes) for i in range(n)]


def model(mark: str, name: str = "some/receiver") -> ModelInfo:
    return ModelInfo(role="receiver", reference=name, fingerprint=mark * 64)


def pair(n: int = 60, lost: int = 18, won: int = 8, **changes: Any) -> tuple[LoadedRun, LoadedRun]:
    """A run and the same with another receiver, or whatever else is changed."""
    right = n // 2
    head = {"identity": "b" * 64, "models": [model("2", "other/model")], **changes}
    base = regression_runs.run(answered(n, right), models=[model("1")])
    return base, regression_runs.run(turned(n, lost, won, right), **head)


def test_another_receiver_on_sixty_questions_is_not_the_same() -> None:
    report = check(*pair())
    assert report.exit_code == 3
    assert report.headline.startswith("Not shown to be the same: 1 not shown")
    assert report.differs == "Differs: receiver weights (receiver 1111111 -> model 2222222)."


def test_equal_answers_of_another_receiver_to_sixty_questions_show_little() -> None:
    report = check(*pair(lost=0, won=0))
    assert report.exit_code == 3
    assert "a loss of up to 4.3 points could hide" in report.verdicts[0].text


def test_many_questions_show_that_another_receiver_is_the_same() -> None:
    report = check(*pair(n=4000, lost=20, won=20))
    assert report.exit_code == 0
    assert [verdict.status for verdict in report.verdicts] == ["same"]
    assert "same within 1 points" in report.verdicts[0].text


def test_a_gain_that_is_not_resolved_is_no_worse_and_not_the_same() -> None:
    report = check(*pair(n=2000, lost=20, won=30))
    assert [verdict.status for verdict in report.verdicts] == ["no worse"]
    assert report.exit_code == 0


ROUNDING: dict[str, Any] = {"identity": "a" * 64, "models": [model("1")], "hardware": regression_runs.OTHER_MACHINE}


def code(fail_on: str | None, **changes: Any) -> int:
    chosen: Any = fail_on
    return check(*pair(lost=3, won=3, **changes), Options(fail_on=chosen)).exit_code


@pytest.mark.parametrize(("fail_on", "expected"), [(None, 3), ("regression", 0), ("not-shown", 3)])
def test_other_weights_fail_unless_only_a_regression_may(fail_on: str | None, expected: int) -> None:
    assert code(fail_on) == expected


@pytest.mark.parametrize(("fail_on", "expected"), [(None, 0), ("regression", 0), ("not-shown", 3)])
def test_rounding_warns_unless_it_is_to_fail(fail_on: str | None, expected: int) -> None:
    assert code(fail_on, **ROUNDING) == expected


def test_another_commit_is_more_than_rounding() -> None:
    assert code(None, **ROUNDING, git=Git(commit="f" * 40, dirty=False)) == 3


@pytest.mark.parametrize("names", [("attention",), ("dtype", "dtypes"), ("device",)])
def test_number_formats_and_kernels_are_rounding(names: tuple[str, ...]) -> None:
    base, head = pair(lost=3, won=3, models=[model("1")])
    before = regression_runs.altered(base, identity_fields=dict.fromkeys(names, "one"))
    after = regression_runs.altered(head, identity_fields=dict.fromkeys(names, "two"))
    assert check(before, after).exit_code == 0
    assert check(before, regression_runs.altered(after, identity_fields={"limit": 3})).exit_code == 3


def test_a_regression_fails_however_little_differs() -> None:
    base, head = pair(n=400, lost=60, won=0, **ROUNDING)
    assert check(base, head, Options(fail_on="regression")).exit_code == 1


def counted(report: Report) -> dict[str, str | None]:
    suite = ElementTree.fromstring(junit(report)).find("testsuite")
    assert suite is not None
    assert suite.find("properties/property[@name='differs']") is not None
    return {name: suite.get(name) for name in ("failures", "errors", "skipped")}


def test_junit_fails_as_the_exit_code_does() -> None:
    assert counted(check(*pair())) == {"failures": "1", "errors": "0", "skipped": "0"}
    excused = check(*pair(lost=3, won=3, **ROUNDING))
    assert counted(excused) == {"failures": "0", "errors": "0", "skipped": "1"}
    assert excused.headline.startswith("No regression seen, but not all shown to be the same")


def test_the_command_line_says_first_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, head = pair()
    folders = [str(regression_runs.write(base, tmp_path / "base")), str(regression_runs.write(head, tmp_path / "head"))]
    assert cli.main(["check", *folders]) == 3
    assert capsys.readouterr().out.startswith("Differs: receiver weights (receiver 1111111 -> model 2222222).\n")
    assert cli.main(["check", *folders, "--fail-on", "regression"]) == 0
    assert cli.main(["check", *folders, "--fail-on", "warning"]) == 2


@pytest.mark.parametrize("arm", [("majority", ""), ("oracle", ""), ("chance", "")])
def test_rows_without_a_model_pass_are_not_judged(arm: tuple[str, str]) -> None:
    base = [regression_runs.sample(i, True, a) for i in range(400) for a in (("c2c", ""), arm)]
    head = [regression_runs.sample(i, a != arm, a) for i in range(400) for a in (("c2c", ""), arm)]
    report = check(regression_runs.run(base), regression_runs.run(head))
    assert {verdict.subject for verdict in report.verdicts if verdict.check == "answers"} == {"openbookqa c2c"}
    assert report.exit_code == 0
