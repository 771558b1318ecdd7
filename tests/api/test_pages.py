"""The page about Python and the notebook do what they say: every line of them is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from tests.support.pages import ROOT, texts

PAGE, NOTEBOOK = ROOT / "docs" / "python.md", ROOT / "examples" / "first_steps.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a user's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_line_of_the_page_runs_and_prints_what_stands_there(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    printed = []
    for block in texts(PAGE, "python"):
        exec(block, names)
        printed.append(capsys.readouterr().out)
    assert printed[0] == texts(PAGE, "text")[0]
    assert "unknown key 'limits'. Did you mean 'limit'?" in printed[2]
    assert {"receiver", "c2c", "c2c:payload=int8", "c2c/mean"} <= set(names["scores"]["arm"])
    assert names["page"].is_file()
    assert {path.name for path in elsewhere.iterdir()} == {"relay.html", "runs"}


def test_the_settings_that_the_page_names_are_there() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Settings")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)=", section)) - {"plugin"} <= set(RunConfig.model_fields)


def test_every_cell_of_the_notebook_runs(elsewhere: Path) -> None:
    names: dict[str, Any] = {"display": lambda *_: None}
    for cell in cells("code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        exec("".join(cell["source"]), names)
    assert names["result"].path.is_dir()
    assert not names["differences"].empty


def test_the_notebook_is_of_the_format_that_notebooks_read() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert found["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(set(cell) >= {"cell_type", "metadata", "source"} for cell in found["cells"])
