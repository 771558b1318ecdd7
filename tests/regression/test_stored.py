"""The record of a leaderboard is a baseline: its answers are judged, what it did not keep is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.errors import UserError
from harness.leaderboard.record_format import board_record, serialised
from harness.records import LoadedRun
from harness.regression.pairing import load
from tests.support import regression_runs


def stored(run: LoadedRun, folder: Path) -> str:
    path = folder / "record.json"
    path.write_text(serialised(board_record(run)), encoding="utf-8")
    return str(path)


BASE = regression_runs.run(
    [sample.model_copy(update={"routed_to": "sharer"}) for sample in regression_runs.answers(400)],
    regression_runs.timings(regression_runs.Clock(0)),
)


def test_the_run_itself_is_the_same_as_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = stored(BASE, tmp_path), str(regression_runs.write(BASE, tmp_path / "run"))
    assert cli.main(["check", record, folder]) == 0
    assert "all 400 answers are equal" in capsys.readouterr().out
    assert cli.main(["check", folder, record]) == 0


def test_one_changed_label_is_a_regression(tmp_path: Path) -> None:
    changed = [BASE.samples[0].model_copy(update={"predicted": "B", "correct": False}), *BASE.samples[1:]]
    worse = regression_runs.write(regression_runs.run(changed), tmp_path / "run")
    assert cli.main(["check", stored(BASE, tmp_path), str(worse)]) == 1


def test_groups_are_judged_as_in_the_run(tmp_path: Path) -> None:
    known: dict[str, Any] = {"datasets": {"a": "d", "b": "d"}, "task_versions": {"a": "1", "b": "1"}}
    answers = [s for task in ("a", "b") for s in regression_runs.answers(40, task=task)]
    run = regression_runs.run(answers, groups={"both": ["a", "b"], "a": ["a"], "b": ["b"]}, **known)
    (found,) = load(Path(stored(run, tmp_path)))
    assert found.record.groups == run.record.groups
    assert len(found.samples) == len(answers)


def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path) -> None:
    folder = regression_runs.write(BASE, tmp_path / "run")
    with pytest.raises(UserError, match="give the folder that it lies in"):
        load(folder / "run.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="no valid record|is wrong"):
        load(tmp_path / "x.json")
