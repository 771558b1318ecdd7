"""What works without torch, transformers, lm-eval and data sets, and what is said where it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import EXTRAS, extra_of
from harness.paths import ROOT

BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of an installation that has no optional part."""
    folder = tmp_path_factory.mktemp("light")
    names = {name for packages in EXTRAS.values() for name in packages}
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=names))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def _called(light: dict[str, str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_eval.py"), *arguments]
    return subprocess.run(command, env=light, cwd=cwd, capture_output=True, text=True, check=False)


LIGHT_VERBS = [
    *(["--version"], ["ls"], ["ls", "channels"], ["report", "--check"]),
    *([verb, "--help"] for verb in ("run", "train", "bench", "check", "import")),
]
# One interpreter for all, because starting it is most of the work.
CALLS = """
import contextlib, io, json, sys
from harness.cli import main

def called(arguments):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code or 0
    return [code, bool(output.getvalue())]

print(json.dumps([called(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def test_verbs_that_need_no_models_work_in_the_light_installation(light: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLS, json.dumps(LIGHT_VERBS)]
    done = subprocess.run(command, env=light, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0, True]] * len(LIGHT_VERBS), done.stderr


def test_a_verb_that_needs_more_names_the_extra_and_its_command(light: dict[str, str], tmp_path: Path) -> None:
    done = _called(light, "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'c2c-harness[run]'" in done.stderr


def test_an_unknown_module_that_is_missing_is_a_defect_and_no_extra() -> None:
    assert extra_of("harness.no_such_module") is None
    assert extra_of("torch.nn") == "run"


def test_evaluate_names_the_extra_that_it_needs(light: dict[str, str], tmp_path: Path) -> None:
    code = "import harness\ntry:\n    harness.evaluate()\nexcept harness.UserError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=light, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "harness.evaluate needs torch, which is not installed; pip install 'c2c-harness[run]'" in done.stdout
