"""What a board shows: one row for each pair, channel and control, with where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.leaderboard.reading import Entry
from harness.pins import open_pins
from harness.records.schema import ResultRow, RunRecord
from harness.results import Effect, effects, facts_of, headline, speed_ups
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
    """What one record gives: its rows and all of its effects."""

    run_id: str
    rows: list[BoardRow]
    effects: list[Effect]


def entry_board(entry: Entry) -> EntryBoard:
    """Computes the rows and effects of one record; tasks inside a group show through their group."""
    groups = entry.record.groups
    found = effects(entry.samples, facts_of(entry.record.run, groups))
    faster = {(s.task, s.arm): Value(s.ratio, s.low, s.high) for s in speed_ups(entry.timings, groups)}
    rows = [
        _row(entry, row, found, faster.get((row.task, (row.channel, row.control)), NO_VALUE))
        for row in headline(entry.rows, groups)
    ]
    return EntryBoard(entry.record.run.run_id, rows, found)


def _row(entry: Entry, row: ResultRow, found: Sequence[Effect], speed_up: Value) -> BoardRow:
    run = entry.record.run
    arm: Arm = (row.channel, row.control)
    return BoardRow(
        task=row.task,
        receiver=_references(entry, "receiver")[0],
        sharers=_references(entry, "sharer"),
        channel=row.channel,
        control=row.control,
        variant=row.variant,
        accuracy=Value(row.accuracy, row.accuracy_low, row.accuracy_high),
        to_receiver=_difference(found, row.task, arm, "to_receiver"),
        to_t2t=_difference(found, row.task, arm, "to_t2t"),
        content=_difference(found, row.task, arm, "content"),
        ttft_s_p50=row.ttft_s_p50,
        ttft_s_p90=row.ttft_s_p90,
        e2e_s_p50=row.e2e_s_p50,
        e2e_s_p90=row.e2e_s_p90,
        speed_up=speed_up,
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
    )


def _source(run: RunRecord) -> str:
    engine = f" through {run.engine.backend}" if run.engine else ""
    pins = open_pins(run)
    return f"run {run.run_id}{engine}" + (f", open pins: {', '.join(pins)}" if pins else "")


def _references(entry: Entry, role: str) -> tuple[str, ...]:
    return tuple(model.reference for model in entry.record.run.models if model.role.startswith(role)) or ("",)


def _difference(found: Iterable[Effect], task: str, arm: Arm, kind: str) -> Difference:
    for effect in found:
        if (effect.task, effect.arm, effect.kind) == (task, arm, kind):
            return Difference(effect.difference, effect.low, effect.high, effect.p_holm, effect.verdict)
    return Difference()
