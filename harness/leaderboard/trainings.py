"""Rows that average several trainings of the same thing, and where those come from.

Runs that differ only in what was trained are read together, as figures of a method and not of one lucky training.
Guarantees that no training counts twice, on either side of a difference; that trainings are averaged only where their
files tell the same settings; that two things trained apart, such as a fuser and an adapter, are no pairs, whatever
their seeds and the runs they met in; that an error is no right answer in an accuracy; and that a question with an error
on any side is left out of a difference and counted. The p-values of a task's differences are one family.

The origin of the trained weights is given in a line each, with what the lines of a part share.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from harness import stats
from harness.leaderboard.record_format import Entry
from harness.records.schema import RunRecord, Sample
from harness.results.comparisons import BY_NAME, after_holm, comparisons
from harness.results.formatting import arm_text, markdown
from harness.results.grouping import (
    Arm,
    Facts,
    Key,
    Table,
    arm_order,
    cluster_names,
    entry_of,
    fuser_in_use,
    tables,
    top_level,
)

_SHOWN = {"trained_parameters", "seed", "steps", "global_batch", "learning_rate", "data_fingerprint"}

FUSER, SELF_FUSER, ADAPTER = "fuser", "self-fuser", "adapter"

_DIGITS = 12


class Origin(NamedTuple):
    """Weights of a run that were trained, and what their file says of it.

    Attributes:
        reference: by name.
        part: `FUSER`, `SELF_FUSER`, `ADAPTER` (the receiver fine-tuned alone), or an adapter inside another model.
        fingerprint: of the files.
        training: empty where the file says nothing.
    """

    reference: str
    part: str
    fingerprint: str
    training: Mapping[str, Any]


def origins(entries: Iterable[Entry], task: str) -> list[Origin]:
    """Returns every trained part of the runs that answered a task, each once; without those that say nothing."""
    ours = (entry.record.run for entry in entries if any(row.task == task for row in entry.rows))
    found = {origin.fingerprint: origin for run in ours for origin in trained_parts(run) if origin.training}
    return sorted(found.values(), key=lambda one: (one.part, one.reference, one.fingerprint))


def trained_parts(run: RunRecord) -> Iterator[Origin]:
    """Yields a run's fusers, then its models; one that was not fine-tuned says nothing."""
    for fuser in run.fusers:
        part = SELF_FUSER if fuser.get("role") == "self" else FUSER
        told = fuser.get("training")
        named = str(fuser.get("reference", "")), part, str(fuser.get("fingerprint", ""))
        yield Origin(*named, told if isinstance(told, Mapping) else {})
    for model in run.models:
        part = ADAPTER if model.role == "tuned" else f"{ADAPTER} in the {model.role}"
        yield Origin(model.reference, part, model.fingerprint, model.training)


def origins_text(trained: Sequence[Origin]) -> str:
    """Lists every trained part, without what `shared_text` says of it."""
    return "\n".join(f"* {_text(one, shared)}" for part, shared in _parts(trained) for one in part)


def shared_text(trained: Sequence[Origin]) -> str:
    """Lists for each part the settings that all its weights were trained with."""
    return "\n".join(f"* {markdown(part[0].part)}: {_listed(shared) or 'none'}" for part, shared in _parts(trained))


def _parts(trained: Sequence[Origin]) -> Iterator[tuple[list[Origin], dict[str, Any]]]:
    for _, group in groupby(trained, key=attrgetter("part")):
        part = list(group)
        yield part, _shared(part)


def _shared(part: Sequence[Origin]) -> dict[str, Any]:
    first, *others = [one.training for one in part]
    return {name: value for name, value in first.items() if all(name in o and o[name] == value for o in others)}


def _listed(settings: Mapping[str, Any]) -> str:
    return markdown(", ".join(f"{name} {value}" for name, value in sorted(settings.items()) if name not in _SHOWN))


def _text(origin: Origin, shared: Mapping[str, Any]) -> str:
    told = {name: str(value) for name, value in origin.training.items()}
    own = {name: value for name, value in told.items() if name not in shared}
    figures = {
        "{} parameters": told.get("trained_parameters", ""),
        "seed {}": told.get("seed", ""),
        "steps x batch {}": " x ".join(told[name] for name in ("steps", "global_batch") if name in told),
        "learning rate {}": told.get("learning_rate", ""),
        "rows of digest {}": told.get("data_fingerprint", "")[:_DIGITS],
    }
    written = [markdown(text.format(value)) for text, value in figures.items() if value]
    digest = f"sha256 {markdown(origin.fingerprint[:_DIGITS])}"
    return ", ".join(
        [f"**{markdown(origin.reference)}** ({origin.part}): {digest}", *written, *filter(None, [_listed(own)])]
    )


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
        weights: what was trained, a name a training; of a difference of two trained things those of the first arm, then
            those of the second.
        left_out: questions that a difference leaves out.
        p_holm: of a difference, adjusted over all differences of the task; None where there is no interval.
        verdict: of a difference, in words.
        recipe: of the weights of the first arm, see `recipe_of`.
    """

    task: str
    receiver: str
    sharers: tuple[str, ...]
    quantity: Quantity
    weights: tuple[str, ...]
    found: stats.Repeated
    left_out: int
    p_holm: float | None = None
    verdict: str = ""
    recipe: str = ""


class _Run(NamedTuple):
    """One run's answers to one task."""

    record: RunRecord
    table: Table


class _Side(NamedTuple):
    """The distinct trainings of one thing, each with a run that answered with it.

    Attributes:
        arms: the arm of the first side of a difference and, where both sides are of the same training or the base was
            not trained, its base.
        weights: a name a training.
        runs: a run a training.
    """

    arms: tuple[Arm, ...]
    weights: tuple[str, ...]
    runs: tuple[_Run, ...]


def trainings_rows(entries: Sequence[Entry]) -> list[TrainingsRow]:
    """Averages what at least two trainings of the same thing answered, by pair, task and arm."""
    alike: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.record.run.run_id):
        alike[_same(entry.record.run)].append(entry)
    rows = [row for group in alike.values() if len(group) > 1 for row in _group_rows(group)]
    by_task: dict[str, list[TrainingsRow]] = defaultdict(list)
    for row in rows:
        by_task[row.task].append(row)
    judged = {task: iter(_judged(family)) for task, family in by_task.items()}
    return [next(judged[row.task]) for row in rows]


def _judged(family: Sequence[TrainingsRow]) -> list[TrainingsRow]:
    """Adjusts the differences of a task by Holm and says what they show."""
    tested = [_difference_p(row) for row in family]
    p_holm = iter(stats.holm([p for p in tested if p is not None]) if any(p is not None for p in tested) else [])
    return [row if p is None else _with_verdict(row, next(p_holm)) for row, p in zip(family, tested, strict=True)]


def _difference_p(row: TrainingsRow) -> float | None:
    return None if row.quantity.base is None else row.found.p_value


def _with_verdict(row: TrainingsRow, p_holm: float) -> TrainingsRow:
    interval = row.found.interval
    assert interval is not None
    return row._replace(p_holm=p_holm, verdict=after_holm(stats.verdict(_Bounded(interval)), p_holm))


class _Bounded(NamedTuple):
    """A difference with an interval, see `harness.stats.verdict`."""

    interval: stats.Interval


def _same(run: RunRecord) -> str:
    """Everything that decides answers but the trained weights; frozen models by their digests."""
    fixed = {name: value for name, value in run.identity_fields.items() if name not in _VARYING}
    models = [[model.role, model.reference, model.fingerprint] for model in run.models if model.role != "tuned"]
    return json.dumps([fixed, models], sort_keys=True)


def _group_rows(group: Sequence[Entry]) -> Iterator[TrainingsRow]:
    by_task: dict[str, list[_Run]] = defaultdict(list)
    for entry in group:
        shown = top_level(entry.record.groups, (sample.task for sample in entry.samples))
        for table in tables(entry.samples, Facts(entry.record.groups, strata=entry.record.run.strata)):
            if table.name in shown:
                by_task[table.name].append(_Run(entry.record.run, table))
    models = group[0].record.run.models
    sharers = tuple(model.reference for model in models if model.role.startswith("sharer"))
    for task, runs in sorted(by_task.items()):
        for quantity, sides in _quantities(runs):
            if (found := _average(sides, quantity)) is not None:
                weights = tuple(name for side in sides for name in side.weights)
                recipe = recipe_of(sides[0].runs[0].record, quantity.arm)
                yield TrainingsRow(task, models[0].reference, sharers, quantity, weights, *found, recipe=recipe)


def _quantities(runs: Sequence[_Run]) -> Iterator[tuple[Quantity, tuple[_Side, ...]]]:
    """Every quantity with its sides: one, or two where base and arm were trained apart; at least two trainings each."""
    arms = sorted({arm for run in runs for arm in run.table.arms}, key=arm_order)
    differences = [Quantity(BY_NAME[one.kind.name].title, one.arm, one.base) for one in comparisons(arms)]
    for quantity in (*(Quantity("accuracy", arm) for arm in arms), *differences):
        apart = quantity.base is not None and "" not in (parts := [_part(arm) for arm in quantity.arms])
        if apart and len(set(parts)) > 1:
            ours, theirs = (_sides(runs, (arm,)) for arm in quantity.arms)
            yield from ((quantity, pair) for pair in itertools.product(ours, theirs))
        else:
            yield from ((quantity, (side,)) for side in _sides(runs, quantity.arms))


def _sides(runs: Sequence[_Run], arms: tuple[Arm, ...]) -> list[_Side]:
    """The trainings of each kind that answered through all these arms, no training twice."""
    kinds: dict[tuple[str, ...], list[tuple[str, _Run]]] = defaultdict(list)
    seen: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for run in runs:
        made = _trained(run.record, arms) if set(arms) <= set(run.table.arms) else []
        settings, own = tuple(map(_settings, made)), {one.fingerprint for one in made}
        if made and all(settings) and not own & seen[settings]:
            seen[settings] |= own
            kinds[settings].append((made[0].reference, run))
    chosen = [kind for _, kind in sorted(kinds.items()) if len(kind) > 1]
    return [_Side(arms, tuple(name for name, _ in kind), tuple(run for _, run in kind)) for kind in chosen]


def _trained(run: RunRecord, arms: Iterable[Arm]) -> list[Origin]:
    """The trained weights that arms answer with, those of the first arm first."""
    parts = dict.fromkeys(map(_part, arms))
    return [one for part in parts for one in trained_parts(run) if one.part == part]


def recipe_of(run: RunRecord, arm: Arm) -> str:
    """Returns what an arm's trained weights share with those of other seeds; "" if nothing of it was trained."""
    made = [*map(_settings, _trained(run, [arm]))]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest() if made else ""


def _part(arm: Arm) -> str:
    """What an arm answers with that was trained; "" if nothing was."""
    entry = entry_of(arm[0])
    if entry is None or fuser_in_use(arm[1]) == "none":
        return ""
    if "fuser" not in entry.needs:
        return ADAPTER if "tuned" in entry.needs else ""
    return SELF_FUSER if fuser_in_use(arm[1]) == "self" else FUSER


def _settings(origin: Origin) -> str:
    """What trainings of one kind share; "" where the file says nothing."""
    kept = {name: value for name, value in origin.training.items() if name not in _BETWEEN}
    return json.dumps(kept, sort_keys=True) if origin.training else ""


def _average(sides: Sequence[_Side], quantity: Quantity) -> tuple[stats.Repeated, int] | None:
    """Averages, and says how many questions a difference leaves out; None where too few are left."""
    columns = [run.table.arms[arm] for side in sides for run in side.runs for arm in side.arms]
    asked = list(dict.fromkeys(key for column in columns for key in column))
    kept = [key for key in asked if all(key in column for column in columns)]
    if quantity.base is not None:
        kept = [key for key in kept if all(column[key].done for column in columns)]
    if len(kept) < 2:
        return None
    values = [[[_value(run.table, side.arms, key) for key in kept] for run in side.runs] for side in sides]
    table, shown = sides[0].runs[0].table, [columns[0][key] for key in kept]
    named, parts = cluster_names(shown), table.strata(shown)
    if len(values) == 2:
        found = stats.repeated_difference(values[0], values[1], named, strata=parts)
    else:
        found = stats.repeated(values[0], named, lowest=0.0 if quantity.base is None else -1.0, strata=parts)
    return found, len(asked) - len(kept)


def _value(table: Table, arms: Sequence[Arm], key: Key) -> float:
    right = [_right(table.arms[arm][key]) for arm in arms]
    return right[0] - sum(right[1:])


def _right(sample: Sample) -> float:
    return float(sample.done and bool(sample.correct))
