"""The example of a paper's repository: its workflow, its baseline and the outcomes that its page names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from harness.cli import main
from harness.config import read_yaml
from tests.support.pages import ROOT, blocks

EXAMPLE = ROOT / "examples" / "paper_repo"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "gate.yml"
ACTION = ROOT / ".github" / "actions" / "check" / "action.yml"
FEW = 12


def expanded(run: str, variables: dict[str, str]) -> list[str]:
    """Returns the words of one `run:` line as its shell gives them to the program."""
    catch = "".join(f'{name}() {{ printf "%s\\0" {name} "$@"; }}; ' for name in ("c2c-harness", "pip"))
    command = ["bash", "-euo", "pipefail", "-c", catch + run]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def steps() -> Iterator[list[str]]:
    """Yields every command of the workflow in order."""
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    for step in workflow["jobs"]["gate"]["steps"]:
        if "run" in step:
            yield expanded(step["run"], {})


def action_steps(given: dict[str, str]) -> Iterator[list[str]]:
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    assert set(given) <= set(action["inputs"])
    values = {name: given.get(name, about.get("default")) for name, about in action["inputs"].items()}
    for step in action["runs"]["steps"]:
        env = {name: values[re.sub(r"\$\{\{ inputs\.(.+) \}\}", r"\1", text)] for name, text in step["env"].items()}
        assert "${{" not in step["run"]
        yield expanded(step["run"], env)


def follow_page(folder: Path, run: str) -> None:
    """Makes a baseline as the page says, in another new folder."""
    for block in blocks(EXAMPLE / "README.md"):
        follow_commands(replace(block, text=block.text.replace("runs/base", run)).commands(), folder)


def follow_commands(commands: list[list[str]], folder: Path) -> None:
    for words in commands:
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
        for run in ("runs/base", "runs/later"):
            follow_page(folder, run)
        install, asked, _ = steps()
        assert install[:2] == ["pip", "install"]
        assert main(asked[1:]) == 0
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


def changed(path: Path, record: dict[str, Any]) -> Path:
    """Writes the record of a method that answers alike under another identity."""
    record["run"].update(identity="0" * 64, packages={"torch": "1"})
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (2, 0), (4, 3), (12, 1)])
def test_what_passes_with_the_committed_size_is_what_the_page_says(tmp_path: Path, lost: int, code: int) -> None:
    record = json.loads((EXAMPLE / "baseline.json").read_text(encoding="utf-8"))
    fused = next(one for one in record["answers"] if one["channel"] == "c2c")
    fused["marks"] = fused["marks"].replace("1", "0", lost)
    _, command, _, _, *options = list(steps())[-1]
    assert (
        main([command, str(EXAMPLE / "baseline.json"), str(changed(tmp_path / "head.json", record)), *options]) == code
    )


def test_one_marked_line_is_to_be_changed_and_names_what_pip_installs() -> None:
    lines = WORKFLOW.read_text(encoding="utf-8").splitlines()
    (place,) = (place for place, line in enumerate(lines) if "OWNER" in line and "#" not in line)
    assert "The one line to change" in lines[place - 1]
    _, _, wanted, *_ = next(steps())
    named = Requirement(wanted.replace("OWNER", "somebody").replace("COMMIT", "0" * 40))
    assert (named.name, named.extras) == ("c2c-harness", {"run"})
    assert named.url == f"git+https://github.com/somebody/c2c-harness@{'0' * 40}"


def test_the_action_is_the_last_step_of_the_workflow() -> None:
    (action,) = action_steps({"baseline": "baseline.json", "run": "runs/head", "margin": "2"})
    assert action == list(steps())[-1]


def test_runs_stay_out_of_the_repository() -> None:
    assert (EXAMPLE / ".gitignore").read_text(encoding="utf-8").splitlines() == ["/runs/"]


@pytest.mark.slow
def test_the_committed_repository_passes_its_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    codes = [main(words[1:]) for words in steps() if words[0] == "c2c-harness"]
    assert codes == [0, 0]
