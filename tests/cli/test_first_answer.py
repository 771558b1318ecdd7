"""What a command does before its first answer: few modules, and nothing that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import leaderboard
from harness.config import build
from harness.evaluation import finalize

HEAVY = ("torch", "transformers", "lm_eval", "datasets", "pandas", "matplotlib", "scipy")


def test_flags_are_read_with_few_modules() -> None:
    code = (
        "import sys\n"
        "from harness.cli.parser import Parser\n"
        "from harness.cli.run_flags import configuration\n"
        "configuration(Parser('run'), ['--tasks', 'relay_one'])\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), len(sys.modules) < 700)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[] True\n", done.stdout + done.stderr


def test_libraries_are_read_without_being_walked() -> None:
    code = (
        "import gc\n"
        "before = gc.get_stats()[2]['collections']\n"
        "from harness.cli import main\n"
        "code = main(['run', '--tasks', 'no_such_task'])\n"
        "import sys\n"
        "told = gc.get_stats()[2]['collections'] - before\n"
        "print(code, 'torch' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000, told < 5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "2 True True True True\n", done.stdout + done.stderr


def test_a_run_builds_no_board_that_was_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    for name in ("write_own", "add_record", "write"):
        monkeypatch.setattr(leaderboard, name, lambda *_, name=name: built.append(name))
    config = build({"receiver": "r", "tasks": ["relay_one"]})
    finalize.publish_pages(config, tmp_path)
    assert built == ["write_own"]
    finalize.publish_pages(config.model_copy(update={"leaderboards_dir": str(tmp_path)}), tmp_path)
    assert built == ["write_own", "write_own", "add_record", "write"]
