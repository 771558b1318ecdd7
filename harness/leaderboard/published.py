"""Figures that others have published, carried over as they stand and never mixed with what was measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from harness import stats
from harness.leaderboard.rows import REPORTED, BoardRow, Value


@cache
def _data() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))
    return content


def title(task: str) -> str:
    """Returns a benchmark's name in words, or the task's own name."""
    listed = _data()["tasks"].get(task)
    return str(listed["title"] if listed else _data()["titles"].get(task, task))


def published_rows() -> list[BoardRow]:
    """Returns every published figure as a row that says it was not run here."""
    return [_row(row) for row in _data()["rows"]]


def _row(row: Mapping[str, Any]) -> BoardRow:
    source = _data()["sources"][row["source"]]
    n = _data()["tasks"][row["task"]]["n"] if row["source"] == "paper" else None
    accuracy = row["accuracy_percent"] / 100
    return BoardRow(
        task=row["task"],
        receiver=_data()["receiver"],
        sharers=(row["sharer"],),
        channel=row["channel"],
        control=row.get("control", ""),
        accuracy=_with_interval(accuracy, n),
        n=n,
        e2e_s_mean=row.get("e2e_s_mean"),
        kind=REPORTED,
        source=source["title"],
        hardware=source["hardware"],
    )


def _with_interval(accuracy: float, n: int | None) -> Value:
    if n is None:
        return Value(accuracy)
    interval = stats.wilson(round(accuracy * n), n)
    return Value(accuracy, interval.low, interval.high)
