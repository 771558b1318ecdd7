"""What works without torch, transformers, lm-eval and data sets, and what is said where it does not."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("ls",),
        ("ls", "channels"),
        ("run", "--help"),
        ("train", "--help"),
        ("bench", "--help"),
        ("check", "--help"),
        ("import", "--help"),
        ("report", "--check"),
    ],
)
def test_verbs_that_need_no_models_work_in_the_light_installation(
    light: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = _called(light, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


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
