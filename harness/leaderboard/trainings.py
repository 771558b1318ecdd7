"""Runs that differ in what was trained and in nothing else, read together: a method and not one lucky training of it.

Guarantees that no training counts twice, on either side of a difference, and that every figure is over questions
that all of its runs answered.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness import stats
from harness.leaderboard.reading import Entry
from harness.records.schema import RunRecord, Sample
from harness.results.effects import BY_NAME, comparisons
from harness.results.groups import TUNED, Arm, Key, Table, arm_order, clusters, tables, top_level
from harness.results.wording import arm_text

_VARYING = {"fusers", "fuser_weights", "self_fuser", "tuned", "weights", "dtypes", "channels", "controls"}


class Quantity(NamedTuple):
    """An arm's accuracy, or with a base the paired difference to it."""

    title: str
    arm: Arm
    base: Arm | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Whose answers it takes."""
        return (self.arm,) if self.base is None else (self.arm, self.base)

    @property
    def text(self) -> str:
        """Names it in one cell."""
        return " − ".join(arm_text(*arm) for arm in self.arms)


class TrainingsRow(NamedTuple):
    """A quantity over several trainings of one pair, as fractions."""

    task: str
    receiver: str
    sharers: tuple[str, ...]
    quantity: Quantity
    found: stats.Repeated


class _Run(NamedTuple):
    """One run's answers to one task."""

    record: RunRecord
    table: Table


def trainings_rows(entries: Sequence[Entry]) -> list[TrainingsRow]:
    """Averages what at least two trainings of the same thing answered, by pair, task and arm."""
    alike: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.record.run.run_id):
        alike[_same(entry.record.run)].append(entry)
    return [row for group in alike.values() if len(group) > 1 for row in _group_rows(group)]


def _same(run: RunRecord) -> str:
    """Everything that decides answers but the trained weights; frozen models by their digests."""
    fixed = {name: value for name, value in run.identity_fields.items() if name not in _VARYING}
    models = [[model.role, model.reference, model.fingerprint] for model in run.models if model.role != "tuned"]
    return json.dumps([fixed, models], sort_keys=True)


def _group_rows(group: Sequence[Entry]) -> Iterator[TrainingsRow]:
    by_task: dict[str, list[_Run]] = defaultdict(list)
    for entry in group:
        shown = top_level(entry.record.groups, (sample.task for sample in entry.samples))
        for table in tables(entry.samples, entry.record.groups):
            if table.name in shown:
                by_task[table.name].append(_Run(entry.record.run, table))
    models = group[0].record.run.models
    sharers = tuple(model.reference for model in models if model.role.startswith("sharer"))
    for task, runs in sorted(by_task.items()):
        for quantity, found in _averages(runs):
            yield TrainingsRow(task, models[0].reference, sharers, quantity, found)


def _averages(runs: Sequence[_Run]) -> Iterator[tuple[Quantity, stats.Repeated]]:
    arms = sorted({arm for run in runs for arm in run.table.arms}, key=arm_order)
    differences = [Quantity(BY_NAME[one.kind.name].title, one.arm, one.base) for one in comparisons(arms)]
    for quantity in (*(Quantity("accuracy", arm) for arm in arms), *differences):
        chosen = _distinct([run for run in runs if set(quantity.arms) <= set(run.table.arms)], quantity)
        keys = _answered_by_all(chosen, quantity)
        if len(chosen) > 1 and len(keys) > 1:
            values = [[_value(run.table, quantity, key) for key in keys] for run in chosen]
            first = [chosen[0].table.arms[quantity.arm][key] for key in keys]
            yield quantity, stats.repeated(values, clusters(first), lowest=0.0 if quantity.base is None else -1.0)


def _distinct(runs: Sequence[_Run], quantity: Quantity) -> list[_Run]:
    """Leaves out runs that repeat a training; none are left where nothing was trained."""
    seen: set[tuple[Arm, str]] = set()
    chosen = []
    for run in runs:
        own = {(arm, trained) for arm in quantity.arms if (trained := _trained(run.record, arm))}
        if own and not own & seen:
            chosen.append(run)
            seen |= own
    return chosen


def _trained(run: RunRecord, arm: Arm) -> str:
    """Digest of the trained weights that an arm answers with; "" if it has none."""
    if arm == TUNED:
        return " ".join(model.fingerprint for model in run.models if model.role == "tuned")
    role = "self" if arm[1] == "self" else "sharer"
    if arm[0] != "c2c" or arm[1] == "closed":
        return ""
    return " ".join(str(fuser.get("fingerprint", "")) for fuser in run.fusers if fuser.get("role", "sharer") == role)


def _answered_by_all(runs: Sequence[_Run], quantity: Quantity) -> list[Key]:
    columns = [run.table.arms[arm] for run in runs for arm in quantity.arms]
    return (
        [key for key in columns[0] if all(key in column and column[key].done for column in columns)] if columns else []
    )


def _value(table: Table, quantity: Quantity, key: Key) -> float:
    right = [_right(table.arms[arm][key]) for arm in quantity.arms]
    return right[0] - sum(right[1:])


def _right(sample: Sample) -> float:
    return float(bool(sample.correct))
