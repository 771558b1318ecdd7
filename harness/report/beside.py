"""Runs beside each other on one page: what each is called, and every arm of one minus that of the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from harness.errors import UserError
from harness.records.journal import LoadedRun
from harness.regression.side_by_side import change_cells, side_by_side

_DEEPEST = 4  # folders of a path that may be needed to tell runs apart


def run_names(runs: Sequence[LoadedRun]) -> list[str]:
    """Names runs by their folders, with as much of the path as tells them apart; by id where nothing does."""
    places = [run.path.resolve().parts for run in runs]
    for depth in range(1, _DEEPEST):
        names = ["/".join(parts[-depth:]) for parts in places]
        if len(set(names)) == len(names):
            return names
    return [run.record.run_id for run in runs]


def compared_runs(runs: Sequence[LoadedRun]) -> list[dict[str, Any]]:
    """Compares every two runs: their places, what differs, and by task the cells of every arm that both have."""
    return [
        {"first": first, "second": second, **_compared(runs[first], runs[second])}
        for first, second in combinations(range(len(runs)), 2)
    ]


def _compared(first: LoadedRun, second: LoadedRun) -> dict[str, Any]:
    try:
        found = side_by_side(first, second)
    except UserError as reason:
        return {"said": str(reason), "tasks": []}
    names = dict.fromkeys(change.effect.task for change in found.changes)
    changes = {name: [change for change in found.changes if change.effect.task == name] for name in names}
    return {
        "said": found.differs,
        "tasks": [{"name": name, "rows": change_cells(own).to_dict("records")} for name, own in changes.items()],
    }
