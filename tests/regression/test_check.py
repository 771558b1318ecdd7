"""Whole checks on written run folders: exit codes, what is printed, what is left in files."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.errors import UserError
from harness.records.schema import SCHEMA_VERSION
from harness.regression import Options, check, main
from harness.regression.pairing import load
from tests.support import regression_runs


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def folders(tmp_path: Path, **changes: object) -> tuple[Path, Path]:
    made = regression_runs.run(regression_runs.answers())
    return regression_runs.write(made, tmp_path / "base"), regression_runs.write(made, tmp_path / "head", **changes)


@pytest.mark.usefixtures("silent")
def test_the_same_run_is_same_or_better(tmp_path: Path) -> None:
    printed: list[str] = []
    assert main(*folders(tmp_path), echo=printed.append) == 0
    assert printed[-1] == "Same or better: 4 same."
    assert all("\n" not in line for line in printed)


@pytest.mark.usefixtures("silent")
def test_the_gravest_line_stands_last_but_for_the_headline(tmp_path: Path) -> None:
    printed: list[str] = []
    more = {"c2c": {"forwards": 101, "decoded_tokens": 900, "bytes_moved": 4096}}
    assert main(*folders(tmp_path, counters=more), echo=printed.append) == 1
    assert printed[-2].startswith("REGRESSION")
    assert "forwards 100 -> 101" in printed[-2]
    assert printed[-1].startswith("Regression: 1 regression")


@pytest.mark.usefixtures("silent")
def test_reports_are_written_where_asked(tmp_path: Path) -> None:
    xml, page = tmp_path / "check.xml", tmp_path / "check.md"
    main(*folders(tmp_path), junit_path=xml, markdown_path=page, echo=lambda _: None)
    assert ElementTree.parse(xml).getroot().get("tests") == "4"
    assert page.read_text().startswith("## Regression check")


def test_the_summary_of_a_build_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    main(*folders(tmp_path), echo=lambda _: None)
    assert summary.read_text().startswith("before\n## Regression check\n\n**Same or better")


def test_a_summary_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(UserError, match="Cannot use"):
        main(*folders(tmp_path), echo=lambda _: None)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        load(tmp_path)


def test_a_folder_of_repetitions_is_loaded_in_their_order(tmp_path: Path) -> None:
    made = regression_runs.run(regression_runs.answers(4))
    for name, hour in (("a", 12), ("b", 11)):
        regression_runs.write(made, tmp_path / name, run_id=name, started_at=f"2026-01-01T{hour}:00:00+00:00")
    assert [run.record.run_id for run in load(tmp_path)] == ["b", "a"]


def test_different_runs_are_no_repetitions(tmp_path: Path) -> None:
    made = regression_runs.run(regression_runs.answers(4))
    regression_runs.write(made, tmp_path / "a")
    regression_runs.write(made, tmp_path / "b", identity="b" * 64)
    with pytest.raises(UserError, match="different identities"):
        load(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    base, head = folders(tmp_path)
    path = head / "run.json"
    path.write_text(
        path.read_text()
        .replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":99')
        .replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
    )
    with pytest.raises(UserError):
        main(base, head, echo=lambda _: None)


def test_other_hardware_leaves_seconds_out_and_still_checks_answers() -> None:
    timings = regression_runs.timings(regression_runs.Clock(seed=0))
    base = regression_runs.run(regression_runs.answers(), timings)
    report = check(base, regression_runs.altered(base, hardware=regression_runs.OTHER_MACHINE))
    assert report.exit_code == 0
    assert [verdict.check for verdict in report.verdicts if verdict.status == "not comparable"] == ["latency"]
    assert {verdict.check for verdict in report.verdicts if verdict.status == "same"} == {"answers", "counts"}


def test_equal_answers_in_five_times_the_seconds_of_another_job_are_no_regression() -> None:
    base = regression_runs.run(
        regression_runs.answers(), regression_runs.timings(regression_runs.Clock(seed=0)), job="1"
    )
    slow = regression_runs.run(
        regression_runs.answers(), regression_runs.timings(regression_runs.Clock(seed=1, factor=5.0)), job="2"
    )
    report = check(base, slow)
    assert report.exit_code == 0
    assert "seconds were not compared" in report.verdicts[0].text


def test_a_worse_accuracy_outweighs_other_hardware() -> None:
    timings = regression_runs.timings(regression_runs.Clock(seed=0))
    base = regression_runs.run(regression_runs.answers(400), timings)
    wrong = [regression_runs.sample(i, False, arm) for arm in regression_runs.ARMS for i in range(400)]
    report = check(base, regression_runs.run(wrong, timings, hardware=regression_runs.OTHER_MACHINE))
    assert report.exit_code == 1
    assert report.count("not comparable") == 1


@pytest.mark.parametrize(("margin", "ratio"), [(-1, 1.05), (100, 1.05), (1, 1.0), (1, 0.9), (1, float("inf"))])
def test_nonsense_limits_are_refused(margin: float, ratio: float) -> None:
    with pytest.raises(UserError):
        Options(margin_points=margin, latency_ratio=ratio)
