"""The example of a paper's repository: its workflow, its baseline and the outcomes that its page names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness
from harness.cli import main
from harness.config import read_yaml
from tests.support.pages import ROOT, blocks

EXAMPLE = ROOT / "examples" / "paper_repo"
ACTION = ROOT / ".github" / "actions" / "check" / "action.yml"
FEW = 12


def expanded(run: str, variables: dict[str, str]) -> list[str]:
    """Returns the words of one `run:` line as its shell gives them to the program."""
    catch = "".join(f'{name}() {{ printf "%s\\0" {name} "$@"; }}; ' for name in ("c2c-harness", "pip"))
    command = ["bash", "-euo", "pipefail", "-c", catch + run]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def steps() -> Iterator[list[str]]:
    """Yields every command of the workflow in order, those of the action with the values that the workflow gives."""
    workflow = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8"))
    for step in workflow["jobs"]["gate"]["steps"]:
        if "run" in step:
            yield expanded(step["run"], {})
        elif ACTION.parent.relative_to(ROOT).as_posix() in step["uses"]:
            yield from action_steps(step["with"])


def action_steps(given: dict[str, str]) -> Iterator[list[str]]:
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    assert set(given) <= set(action["inputs"])
    values = {name: given.get(name, about.get("default")) for name, about in action["inputs"].items()}
    for step in action["runs"]["steps"]:
        env = {name: values[re.sub(r"\$\{\{ inputs\.(.+) \}\}", r"\1", text)] for name, text in step["env"].items()}
        assert "${{" not in step["run"]
        yield expanded(step["run"], env)


def follow_page(folder: Path) -> None:
    """Makes a baseline as the page says."""
    for words in [words for block in blocks(EXAMPLE / "README.md") for words in block.commands()]:
        if words[0] == "cp":
            subprocess.run(["bash", "-c", f"cp {words[1]} {shlex.quote(words[2])}"], cwd=folder, check=True)
        else:
            assert main(words[1:]) == 0, words


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example with fewer questions, its baseline made anew, and the first steps of its workflow behind it."""
    folder = tmp_path_factory.mktemp("paper") / "repository"
    shutil.copytree(EXAMPLE, folder)
    suite = (folder / "suite.yaml").read_text(encoding="utf-8")
    (folder / "suite.yaml").write_text(re.sub(r"limit: \d+", f"limit: {FEW}", suite), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        follow_page(folder)
        install, run, _ = steps()
        assert install[:2] == ["pip", "install"]
        assert main(run[1:]) == 0
        yield folder


def outcome(folder: Path, **changed: Any) -> int:
    """Returns the exit code of the workflow's last step where the baseline's record had other values."""
    path = folder / "baseline.json"
    kept = path.read_text(encoding="utf-8")
    record = json.loads(kept)
    record["run"].update({name: value for name, value in changed.items() if name != "marks"})
    if "marks" in changed:
        record["answers"][1].update(dict.fromkeys(("marks", "marks_strict"), changed["marks"] * FEW))
    path.write_text(json.dumps(record), encoding="utf-8")
    try:
        return main(list(steps())[-1][1:])
    finally:
        path.write_text(kept, encoding="utf-8")


def test_an_unchanged_method_passes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(repository) == 0
    assert f"all {FEW} answers are equal" in capsys.readouterr().out


def test_a_changed_answer_of_the_same_method_is_a_regression(repository: Path) -> None:
    assert outcome(repository, marks="0") == 1


def test_too_few_questions_about_another_method_are_not_enough(repository: Path) -> None:
    assert outcome(repository, identity="0" * 64, packages={"torch": "1"}) == 3


def test_the_committed_baseline_is_of_the_committed_suite() -> None:
    record = json.loads((EXAMPLE / "baseline.json").read_text(encoding="utf-8"))
    values = read_yaml(EXAMPLE / "suite.yaml")
    assert [len(one["ids"]) for one in record["questions"].values()] == [values["limit"]]
    assert list(record["questions"]) == values["tasks"]
    fields = record["run"]["identity_fields"]
    assert {name: fields[name] for name in ("channels", "controls")} == {k: values[k] for k in ("channels", "controls")}


def test_what_is_installed_is_this_version() -> None:
    workflow = (EXAMPLE / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"==([0-9.]+)'|@v([0-9]+\.[0-9.]+)", workflow)) == {
        (harness.__version__, ""),
        ("", harness.__version__),
    }


@pytest.mark.slow
def test_the_committed_repository_passes_its_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    codes = [main(words[1:]) for words in steps() if words[0] == "c2c-harness"]
    assert codes == [0, 0]
