"""Where the project's own files lie, in a checkout beside the package and in a wheel inside it; how it is called."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
_IN_WHEEL = (PACKAGE / "tasks").is_dir()
TASKS = (PACKAGE if _IN_WHEEL else ROOT) / "tasks"
# An installed package is never written into: there the boards are those of the working folder.
LEADERBOARDS = Path("leaderboards") if _IN_WHEEL else ROOT / "leaderboards"
BUILT_IN_TEMPLATES = PACKAGE / "templates"
PAIR = TASKS / "relay" / "pair"
PAIR_NAME = PAIR.relative_to(TASKS.parent)
_SCRIPT, _INSTALLED = "run_eval.py", "c2c-harness"
RECIPE_FILE = "recipe.json"  # of a training, in its folder


def locate(text: str) -> Path:
    """Returns the path behind a reference; the carried pair is found under its name from every working folder."""
    path = Path(text).expanduser()
    return TASKS.parent / path if path.is_relative_to(PAIR_NAME) and not path.exists() else path


def program() -> str:
    """Returns what is typed in front of a command: the script as it was called, else the installed program.

    Usage lines and commands to be pasted say it. What is committed (records, boards) does not: there a command has one
    form, whoever wrote the file.
    """
    called = sys.argv[0] if sys.argv else ""
    return f"python {shlex.quote(called)}" if Path(called).name == _SCRIPT else _INSTALLED
