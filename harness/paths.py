"""Where the project's own files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
TASKS = ROOT / "tasks"
LEADERBOARDS = ROOT / "leaderboards"
BUILT_IN_TEMPLATES = PACKAGE / "templates"
PAIR = TASKS / "factworld" / "pair"
PAIR_NAME = PAIR.relative_to(ROOT)


def located(text: str) -> Path:
    """Returns the path behind a reference; the embedded pair is found under its name from every working folder."""
    path = Path(text).expanduser()
    return ROOT / path if path.is_relative_to(PAIR_NAME) and not path.exists() else path
