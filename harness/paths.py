"""Where the project's own files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
TASKS = ROOT / "tasks"
LEADERBOARDS = ROOT / "leaderboards"
BUILT_IN_TEMPLATES = PACKAGE / "templates"
PAIR = TASKS / "factworld" / "pair"
