"""Where the project's own files lie: in a checkout beside the package, in an installed wheel inside it."""

from __future__ import annotations

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
RECIPE_FILE = "recipe.json"  # of a training, in its folder


def locate(text: str) -> Path:
    """Returns the path behind a reference; the carried pair is found under its name from every working folder."""
    path = Path(text).expanduser()
    return TASKS.parent / path if path.is_relative_to(PAIR_NAME) and not path.exists() else path
