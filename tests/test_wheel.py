"""A wheel in a folder of its own, far from any checkout: it carries the tasks and writes nothing beside itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, read-only."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("harness", "tasks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    shutil.rmtree(source)
    return folder / "site"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working folder whose own folders have the names of ours."""
    for name in ("tasks", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not yours')\n")
    return tmp_path


def called(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_every_module_and_every_task_file_is_in_the_wheel(installed: Path) -> None:
    modules = {path.relative_to(ROOT / "harness") for path in (ROOT / "harness").rglob("*.py")}
    tasks = {path.relative_to(ROOT) for path in (ROOT / "tasks").rglob("*") if path.is_file()}
    assert {path for path in modules | tasks if not (installed / "harness" / path).is_file()} == set()


def test_the_wheel_has_one_name_on_the_import_path(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"harness"}
    assert (installed / "harness" / "tasks" / "relay" / "pair" / "receiver").is_dir()


def test_a_run_from_the_wheel_beside_folders_of_the_same_names(installed: Path, elsewhere: Path) -> None:
    before = files_of(installed)
    run = ["-c", "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"]
    flags = ["--limit", "1", "--channels", "receiver", "--controls", "", "--latency_samples", "0", "--no-progress"]
    done = called(installed, elsewhere, *run, "run", *flags, "--output_path", "out", "--leaderboards_dir", "boards")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "boards" / "README.md").is_file()
    listed = called(installed, elsewhere, *run, "ls")
    assert "openbookqa" in listed.stdout, listed.stderr
    checked = called(installed, elsewhere, *run, "report", "--leaderboards_dir", "boards", "--check")
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert files_of(installed) == before


@pytest.mark.parametrize("name", ["harness.lm_eval_bridge", "harness.lm_eval"])
def test_lm_evals_command_line_under_both_names(installed: Path, elsewhere: Path, name: str) -> None:
    done = called(installed, elsewhere, "-m", name, "--help")
    assert done.returncode == 0, done.stdout + done.stderr


def test_older_names_stand_for_the_same_models() -> None:
    from harness import adapter
    from harness.lm_eval_bridge import model

    assert [getattr(adapter, name) is getattr(model, name) for name in ("SingleLM", "TextLM", "FusedLM")] == [True] * 3
