"""A board with one published pair instead of some twenty, since every page is laid out whenever a board is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.leaderboard import rows

TASK, SHARER = "openbookqa", "Qwen/Qwen2.5-0.5B-Instruct"
EVERYTHING = rows._data


def _few() -> dict[str, Any]:
    whole = EVERYTHING()
    kept = [row for row in whole["rows"] if (row["source"], row["task"], row["sharer"]) == ("paper", TASK, SHARER)]
    return {**whole, "rows": kept}


@pytest.fixture(scope="package", autouse=True)
def few_published() -> Iterator[None]:
    """Boards of the folder whose conftest imports this are small, but for tests that ask for everything."""
    with pytest.MonkeyPatch.context() as patch:
        publish_few(patch)
        yield


def publish_few(patch: pytest.MonkeyPatch) -> None:
    """Leaves the published figures of one pair on one task."""
    found = _few()
    patch.setattr(rows, "_data", lambda: found)


def publish_everything(patch: pytest.MonkeyPatch) -> None:
    """Brings all published figures back."""
    patch.setattr(rows, "_data", EVERYTHING)
