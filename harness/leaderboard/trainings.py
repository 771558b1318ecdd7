"""Runs that differ in what was trained and in nothing else, read together: a method and not one lucky training of it.

Guarantees that no training counts twice, on either side of a difference; that trainings are averaged only where their
files tell the same settings; that an error is no right answer in an accuracy; and that a question with an error on any
side is left out of a difference and counted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness import stats
from harness.leaderboard.origins import ADAPTER, FUSER, SELF_FUSER, Origin, trained_parts
from harness.leaderboard.reading import Entry
from harness.records.schema import RunRecord, Sample
from harness.results.effects import BY_NAME, comparisons
from harness.results.groups import TUNED, Arm, Facts, Key, Table, arm_order, clusters, tables, top_level
from harness.results.wording import arm_text

# What may differ between trainings of one kind; a file without the rows that are held out has another digest.
_BETWEEN = {"seed", "data_fingerprint", "held_out_rows", "validate_every", "validate_limit"}
_VARYING = {"fusers", "fuser_weights", "self_fuser", "tuned", "weights", "dtypes", "channels", "controls", "donors"}


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
    """A quantity over several trainings of one pair, as fractions.

    Attributes:
        weights: what was trained, a name a training.
        left_out: questions that a difference leaves out.
    """

    task: str
    receiver: str
    sharers: tuple[str, ...]
    quantity: Quantity
    weights: tuple[str, ...]
    found: stats.Repeated
    left_out: int


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
        for table in tables(entry.samples, Facts(entry.record.groups)):
            if table.name in shown:
                by_task[table.name].append(_Run(entry.record.run, table))
    models = group[0].record.run.models
    sharers = tuple(model.reference for model in models if model.role.startswith("sharer"))
    for task, runs in sorted(by_task.items()):
        for quantity, alike in _quantities(runs):
            if (found := _average(alike, quantity)) is not None:
                weights = tuple(_trained(run.record, quantity)[0].reference for run in alike)
                yield TrainingsRow(task, models[0].reference, sharers, quantity, weights, *found)


def _quantities(runs: Sequence[_Run]) -> Iterator[tuple[Quantity, list[_Run]]]:
    """Every quantity with the runs of trainings of one kind, at least two, no training twice."""
    arms = sorted({arm for run in runs for arm in run.table.arms}, key=arm_order)
    differences = [Quantity(BY_NAME[one.kind.name].title, one.arm, one.base) for one in comparisons(arms)]
    for quantity in (*(Quantity("accuracy", arm) for arm in arms), *differences):
        kinds: dict[tuple[str, ...], list[_Run]] = defaultdict(list)
        for run in runs:
            if set(quantity.arms) <= set(run.table.arms) and (made := _trained(run.record, quantity)):
                kinds[tuple(map(_settings, made))].append(run)
        chosen = (_distinct(alike, quantity) for settings, alike in sorted(kinds.items()) if all(settings))
        yield from ((quantity, alike) for alike in chosen if len(alike) > 1)


def _distinct(runs: Sequence[_Run], quantity: Quantity) -> list[_Run]:
    """Leaves out runs that repeat a training."""
    seen: set[str] = set()
    chosen = []
    for run in runs:
        own = {one.fingerprint for one in _trained(run.record, quantity)}
        if not own & seen:
            chosen.append(run)
            seen |= own
    return chosen


def _trained(run: RunRecord, quantity: Quantity) -> list[Origin]:
    """The trained weights that a quantity's arms answer with, those of the first arm first."""
    parts = dict.fromkeys(map(_part, quantity.arms))
    return [one for part in parts for one in trained_parts(run) if one.part == part]


def _part(arm: Arm) -> str:
    """What an arm answers with that was trained; "" if nothing was."""
    if arm == TUNED:
        return ADAPTER
    if arm[0] != "c2c" or arm[1] == "closed":
        return ""
    return SELF_FUSER if arm[1] == "self" else FUSER


def _settings(origin: Origin) -> str:
    """What trainings of one kind share; "" where the file says nothing."""
    kept = {name: value for name, value in origin.training.items() if name not in _BETWEEN}
    return json.dumps(kept, sort_keys=True) if origin.training else ""


def _average(runs: Sequence[_Run], quantity: Quantity) -> tuple[stats.Repeated, int] | None:
    """Averages, and says how many questions a difference leaves out; None where too few are left."""
    columns = [run.table.arms[arm] for run in runs for arm in quantity.arms]
    asked = list(dict.fromkeys(key for column in columns for key in column))
    kept = [key for key in asked if all(key in column for column in columns)]
    if quantity.base is not None:
        kept = [key for key in kept if all(column[key].done for column in columns)]
    if len(kept) < 2:
        return None
    values = [[_value(run.table, quantity, key) for key in kept] for run in runs]
    named = clusters([columns[0][key] for key in kept])
    lowest = 0.0 if quantity.base is None else -1.0
    return stats.repeated(values, named, lowest=lowest), len(asked) - len(kept)


def _value(table: Table, quantity: Quantity, key: Key) -> float:
    right = [_right(table.arms[arm][key]) for arm in quantity.arms]
    return right[0] - sum(right[1:])


def _right(sample: Sample) -> float:
    return float(sample.done and bool(sample.correct))
