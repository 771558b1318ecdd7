"""Frame, effects, table and page of a run, from Python; without torch where nothing is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness import cli, results
from harness.api.result import EFFECT_COLUMNS
from harness.errors import UserError
from tests.support import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(synthetic.run(), tmp_path_factory.mktemp("synthetic") / "run")


@pytest.fixture(scope="module")
def result(folder: Path) -> harness.Result:
    return harness.Result.read(folder)


def test_the_table_is_the_terminals(result: harness.Result, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, everything in (([], False), (["--all"], True)):
        assert cli.main(["report", str(folder), *flags]) == 0
        assert capsys.readouterr().out.strip() == result.table(everything).strip()
    assert str(result) == result.table()
    assert repr(result).startswith(f"Result('{folder}', channels=[")


def test_a_run_that_has_not_finished_says_so_first(tmp_path: Path) -> None:
    why = "12 of 24 samples failed, more than --max_error_rate 0.01 allows; the first said: c2c/boom: E:" + 20 * " word"
    made = synthetic.run(status="error", error={"type": "RunError", "message": why})
    table = harness.Result.read(synthetic.write(made, tmp_path / "run")).table()
    said = " ".join(table.split("\n\n")[0].split())
    assert said.startswith(f"{tmp_path / 'run'} has not finished (failed: ")
    assert said.endswith("c2c/boom: E:" + 12 * " word" + " ...)): what follows is of a part of it.")


def test_the_frame_has_the_documented_columns(result: harness.Result) -> None:
    rows = result.frame()
    assert list(rows) == list(results.COLUMNS)
    assert {"receiver", "c2c", "c2c/mean"} <= set(rows["arm"])


def test_effects_have_the_documented_columns_and_the_frames_numbers(result: harness.Result) -> None:
    found = result.effects()
    assert list(found) == list(EFFECT_COLUMNS)
    assert {str(found[name].dtype) for name in ("difference", "low", "high", "p", "p_holm")} == {"float64"}
    content = found[(found["comparison"] == "content") & (found["arm"] == "c2c")].iloc[0]
    row = result.frame().set_index("arm").loc["c2c"]
    assert (content["base"], content["n"]) == ("c2c/mean", row["content_n"])
    assert content["difference"] == row["content"]
    assert content["wins"] - content["losses"] == pytest.approx(content["difference"] * content["n"])
    assert content["verdict"] == row["content_verdict"]


def test_a_run_of_one_arm_has_no_effects_but_their_columns(tmp_path: Path) -> None:
    made = synthetic.run([synthetic.Plan(arms=[("receiver", "")])])
    found = harness.Result.read(synthetic.write(made, tmp_path / "run")).effects()
    assert list(found) == list(EFFECT_COLUMNS)
    assert isinstance(found, pd.DataFrame)


def test_the_page_is_the_command_lines(result: harness.Result, folder: Path, tmp_path: Path) -> None:
    path = result.report(tmp_path / "ours.html")
    assert path == tmp_path / "ours.html"
    assert cli.main(["report", str(folder), "--html", str(tmp_path / "theirs.html")]) == 0
    assert path.read_bytes() == (tmp_path / "theirs.html").read_bytes()


def test_a_folder_without_answers_and_no_folder_are_refused(tmp_path: Path) -> None:
    empty = synthetic.write(synthetic.run([]), tmp_path / "run")
    with pytest.raises(UserError, match="has no answers yet"):
        harness.Result.read(empty)
    with pytest.raises(UserError, match="no run"):
        harness.Result.read(tmp_path / "nothing")


def test_the_public_names_are_listed_and_no_others_are_there() -> None:
    assert {"Result", "RunError", "UserError", "evaluate"} <= set(dir(harness))
    assert harness.UserError is UserError
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = harness.no_such_name


def test_the_import_is_light_and_results_need_no_torch() -> None:
    code = (
        "import sys, harness\n"
        "print(sorted(set(('pandas', 'pydantic')) & set(sys.modules)))\n"
        "harness.Result, harness.evaluate\n"
        "print(sorted(set(('torch', 'transformers', 'lm_eval', 'datasets')) & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "[]\n[]\n", found.stdout + found.stderr
