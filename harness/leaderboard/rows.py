"""What a board shows: one row for each pair, channel and control, with where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.leaderboard.distinct import arm_identity
from harness.leaderboard.reading import Entry
from harness.pins import open_pins
from harness.records.schema import ResultRow, RunRecord
from harness.results import Effect, SpeedUp, facts_of, headline, speed_ups
from harness.results.effects import Measured, adjusted, measured
from harness.results.groups import Arm, arm_order

MEASURED, REPORTED = "measured", "reported, not re-run"


class Value(NamedTuple):
    """A figure with its 95% interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Difference(NamedTuple):
    """A paired difference with what is to be said about it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    verdict: str = ""


NO_VALUE, NO_DIFFERENCE = Value(), Difference()


@dataclass(frozen=True)
class BoardRow:
    """One line of a board; None and "" stay blank. Times in seconds, sizes in bytes, shares as fractions."""

    task: str
    receiver: str
    sharers: tuple[str, ...]
    channel: str
    control: str = ""
    variant: str = ""
    accuracy: Value = NO_VALUE
    to_receiver: Difference = NO_DIFFERENCE
    to_t2t: Difference = NO_DIFFERENCE
    content: Difference = NO_DIFFERENCE
    ttft_s_p50: float | None = None
    ttft_s_p90: float | None = None
    e2e_s_p50: float | None = None
    e2e_s_p90: float | None = None
    e2e_s_mean: float | None = None
    speed_up: Value = NO_VALUE
    speed_up_n: int | None = None
    speed_up_lost: int | None = None
    payload_bytes: float | None = None
    peak_memory_bytes: int | None = None
    n: int | None = None
    errors: int | None = None
    invalid: int | None = None
    kind: str = MEASURED
    source: str = ""
    run_id: str = ""
    started_at: str = ""
    commit: str = ""
    dirty: bool | None = None
    hardware: str = ""
    also: tuple[str, ...] = ()  # further runs of the same weights
    made_by: str = ""  # what decides the answers; "" where that is not known

    @property
    def order(self) -> tuple[object, ...]:
        """Pairs by name; in a pair what was measured first, then what was reported."""
        return (
            self.receiver,
            self.sharers,
            self.kind,
            self.source,
            self.run_id,
            arm_order((self.channel, self.control)),
        )


class EntryBoard(NamedTuple):
    """What one record gives: its rows, and those of its effects that no other record gives better."""

    run_id: str
    rows: list[BoardRow]
    effects: list[Effect]


def entry_boards(entries: Sequence[Entry]) -> list[EntryBoard]:
    """Computes the rows and effects of records; tasks inside a group show through their group.

    The comparisons of a task in all records together are one family for Holm, each counted once however often the same
    weights were run, so that a verdict does not depend on the arms that happened to run beside.
    """
    shown: dict[_Compared, tuple[tuple[object, ...], int, Measured]] = {}
    for index, entry in enumerate(entries):
        for one in measured(entry.samples, facts_of(entry.record.run, entry.record.groups)):
            key, place = _compared(entry, one[0]), _preference(entry, one[0].arm)
            if key not in shown or place > shown[key][0]:
                shown[key] = (place, index, one)
    families: dict[str, list[_Compared]] = {}
    for key in shown:
        families.setdefault(key.task, []).append(key)
    judged: dict[_Compared, Effect] = {}
    for keys in families.values():
        judged |= dict(zip(keys, (effect for effect, _ in adjusted([shown[key][2] for key in keys])), strict=True))
    own = [[effect for key, effect in judged.items() if shown[key][1] == index] for index in range(len(entries))]
    return [
        EntryBoard(entry.record.run.run_id, _entry_rows(entry, judged), effects)
        for entry, effects in zip(entries, own, strict=True)
    ]


def distinct_rows(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Keeps one row of those that the same weights gave to the same questions; rows that were reported stay."""
    alike: dict[object, list[BoardRow]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row.made_by or number, []).append(row)
    chosen = []
    for same in alike.values():
        best = max(same, key=_newer)
        chosen.append(replace(best, also=tuple(sorted(row.run_id for row in same if row is not best))))
    return sorted(chosen, key=lambda row: row.order)


def _newer(row: BoardRow) -> tuple[object, ...]:
    return (row.e2e_s_p50 is not None, row.started_at, row.run_id)


class _Compared(NamedTuple):
    """What makes two comparisons one: task, kind and what answered on both sides."""

    task: str
    kind: str
    arm: str
    base: str


def _compared(entry: Entry, effect: Effect) -> _Compared:
    sides = (_made_by(entry, effect.task, arm) for arm in (effect.arm, effect.base))
    return _Compared(effect.task, effect.kind, *sides)


def _made_by(entry: Entry, task: str, arm: Arm) -> str:
    tasks = sorted({*entry.record.groups.get(task, [task])} & entry.record.questions.keys())
    asked = [entry.record.questions[name].ids for name in tasks]
    return (
        f"{task} {arm_identity(entry.record.run, tasks, arm)} {hashlib.sha256(json.dumps(asked).encode()).hexdigest()}"
    )


def _preference(entry: Entry, arm: Arm) -> tuple[object, ...]:
    timed = any((timing.channel, timing.control) == arm for timing in entry.timings)
    return (timed, entry.record.run.started_at, entry.record.run.run_id)


def _entry_rows(entry: Entry, judged: Mapping[_Compared, Effect]) -> list[BoardRow]:
    groups = entry.record.groups
    faster = {(s.task, s.arm): s for s in speed_ups(entry.timings, groups)}
    rows = []
    for row in headline(entry.rows, groups):
        arm = (row.channel, row.control)
        made_by = _made_by(entry, row.task, arm)
        found = [effect for key, effect in judged.items() if (key.task, key.arm) == (row.task, made_by)]
        rows.append(_row(entry, row, made_by, found, faster.get((row.task, arm))))
    return rows


def _row(entry: Entry, row: ResultRow, made_by: str, found: Sequence[Effect], faster: SpeedUp | None) -> BoardRow:
    run = entry.record.run
    return BoardRow(
        task=row.task,
        receiver=_references(entry, "receiver")[0],
        sharers=_references(entry, "sharer"),
        channel=row.channel,
        control=row.control,
        variant=row.variant,
        accuracy=Value(row.accuracy, row.accuracy_low, row.accuracy_high),
        to_receiver=_difference(found, "to_receiver"),
        to_t2t=_difference(found, "to_t2t"),
        content=_difference(found, "content"),
        ttft_s_p50=row.ttft_s_p50,
        ttft_s_p90=row.ttft_s_p90,
        e2e_s_p50=row.e2e_s_p50,
        e2e_s_p90=row.e2e_s_p90,
        speed_up=NO_VALUE if faster is None else Value(faster.ratio, faster.low, faster.high),
        speed_up_n=None if faster is None else faster.n,
        speed_up_lost=None if faster is None else faster.lost,
        payload_bytes=row.payload_bytes_mean,
        peak_memory_bytes=run.peak_memory_bytes.get("process"),
        n=row.n,
        errors=row.errors,
        invalid=row.invalid,
        source=_source(run),
        run_id=run.run_id,
        started_at=run.started_at,
        commit=run.git.commit,
        dirty=run.git.dirty,
        hardware=run.hardware.gpu or run.hardware.cpu,
        made_by=made_by,
    )


def _source(run: RunRecord) -> str:
    engine = f" through {run.engine.backend}" if run.engine else ""
    pins = open_pins(run)
    return f"run {run.run_id}{engine}" + (f", open pins: {', '.join(pins)}" if pins else "")


def _references(entry: Entry, role: str) -> tuple[str, ...]:
    return tuple(model.reference for model in entry.record.run.models if model.role.startswith(role)) or ("",)


def _difference(found: Iterable[Effect], kind: str) -> Difference:
    for effect in found:
        if effect.kind == kind:
            return Difference(effect.difference, effect.low, effect.high, effect.p_holm, effect.verdict)
    return Difference()
