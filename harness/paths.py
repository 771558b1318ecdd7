"""Where the project's own files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
TASKS = ROOT / "tasks"
LEADERBOARDS = ROOT / "leaderboards"
BUILT_IN_TEMPLATES = PACKAGE / "templates"
PAIR = TASKS / "relay" / "pair"
PAIR_NAME = PAIR.relative_to(ROOT)
FACTWORLD_PAIR = TASKS / "factworld" / "pair"
FACTWORLD_PAIR_NAME = FACTWORLD_PAIR.relative_to(ROOT)


def located(text: str) -> Path:
    """Returns the path behind a reference; a carried pair is found under its name from every working folder."""
    path = Path(text).expanduser()
    carried = path.is_relative_to(PAIR_NAME) or path.is_relative_to(FACTWORLD_PAIR_NAME)
    return ROOT / path if carried and not path.exists() else path
