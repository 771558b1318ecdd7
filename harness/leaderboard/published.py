"""Figures that others have published, carried over as they stand and never mixed with what was measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from harness import stats
from harness.results.frame import REPORTED, typed
from harness.results.wording import arm_text


@cache
def _data() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))
    return content


def title(task: str) -> str:
    """Returns a benchmark's name in words, or the task's own name."""
    listed = _data()["tasks"].get(task)
    return str(listed["title"] if listed else _data()["titles"].get(task, task))


def published_frame() -> pd.DataFrame:
    """Returns every published figure as rows of `harness.results.frame` that say they were not run here."""
    return typed(_row(row) for row in _data()["rows"])


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    source = _data()["sources"][row["source"]]
    n = _data()["tasks"][row["task"]]["n"] if row["source"] == "paper" else None
    accuracy, control = row["accuracy_percent"] / 100, row.get("control", "")
    interval = stats.wilson(round(accuracy * n), n) if n is not None else None
    return {
        "task": row["task"],
        "headline": True,
        "receiver": _data()["receiver"],
        "sharers": row["sharer"],
        "channel": row["channel"],
        "control": control,
        "arm": arm_text(row["channel"], control),
        "model_pass": True,
        "accuracy": accuracy,
        "accuracy_low": interval.low if interval else None,
        "accuracy_high": interval.high if interval else None,
        "n": n,
        "e2e_s_mean": row.get("e2e_s_mean"),
        "kind": REPORTED,
        "source": source["title"],
        "hardware": source["hardware"],
    }
