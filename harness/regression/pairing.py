"""Finds the two sides of a check and lays them side by side, arm by arm.

A side is a run folder, a folder of repetitions, or the record of a leaderboard. This is the only place that decides
which samples belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import UserError
from harness.leaderboard.record_format import read_record
from harness.records.journal import RECORD, is_run, load_run, tell_warnings
from harness.records.schema import RunRecord, Sample, Timing
from harness.results.formatting import arm_text
from harness.results.grouping import DERIVED, Arm, Facts, Key, tables

ALL_TASKS = "all tasks"


class Run(Protocol):
    """What a check reads of a run."""

    @property
    def record(self) -> RunRecord:
        """The run's own record."""

    @property
    def samples(self) -> Sequence[Sample]:
        """One a question, channel and control."""

    @property
    def timings(self) -> Sequence[Timing]:
        """One a question timed alone."""


@dataclass(frozen=True)
class ArmPair:
    """The samples of one arm in the baseline and in the run.

    Attributes:
        name: Task, or group of tasks.
        pooled: Whether it repeats the questions of several tasks that are checked one by one as well.
        arm: Channel and control.
        base: Samples of the baseline.
        head: Samples of the run.
        stratified: Whether its tasks are strata, parts whose sizes are fixed by design.
    """

    name: str
    pooled: bool
    arm: Arm
    base: Mapping[Key, Sample]
    head: Mapping[Key, Sample]
    stratified: bool = False

    @property
    def subject(self) -> str:
        """Task and arm in words."""
        return f"{self.name} {arm_text(*self.arm)}"

    @property
    def shared(self) -> list[tuple[Sample, Sample]]:
        """Pairs of samples of the same question, baseline first."""
        return [(sample, self.head[key]) for key, sample in self.base.items() if key in self.head]

    @property
    def answered(self) -> list[tuple[Sample, Sample]]:
        """Pairs in which both sides have a score."""
        return [(base, head) for base, head in self.shared if base.done and head.done]


def arm_pairs(baseline: Run, run: Run) -> list[ArmPair]:
    """Returns a pair for every arm of either run, tasks and groups alike; an absent arm is empty."""
    tasks = sorted({sample.task for sample in baseline.samples})
    groups = dict(baseline.record.groups) or {ALL_TASKS: tasks}
    pooled = {name: inside for name, inside in groups.items() if len(set(inside) & set(tasks)) > 1}
    facts = Facts(pooled, strata=baseline.record.strata)
    head = {table.name: table.arms for table in tables(run.samples, facts)}
    pairs = []
    for table in tables(baseline.samples, facts):
        others = head.get(table.name, {})
        for arm in dict.fromkeys([*table.arms, *others]):
            if arm[0] in DERIVED:
                continue  # follows from the answers of other arms, which are judged themselves
            base_arm, head_arm = table.arms.get(arm, {}), others.get(arm, {})
            pairs.append(ArmPair(table.name, table.name in pooled, arm, base_arm, head_arm, table.stratified))
    return pairs


@dataclass(frozen=True)
class Stored:
    """A run as the record of a leaderboard keeps it: no texts, no prompts, no counts of work."""

    record: RunRecord
    samples: Sequence[Sample]
    timings: Sequence[Timing]


def load(path: Path) -> list[Run]:
    """Loads one side of a check; repetitions in the order in which they started.

    Raises:
        UserError: There is no run, or the runs below the folder are not repetitions of one.
    """
    return [_stored(path)] if path.is_file() else _folders(path)


def _stored(path: Path) -> Run:
    if path.name == RECORD:
        raise UserError(f"{path} is one file of a run; give the folder that it lies in.")
    entry = read_record(path)
    record = entry.record
    run = record.run.model_copy(update={"groups": dict(record.groups) or record.run.groups})
    return Stored(run, entry.samples, entry.timings)


def _folders(path: Path) -> list[Run]:
    folders = [path] if is_run(path) else sorted(found.parent for found in path.glob(f"*/{RECORD}"))
    if not folders:
        raise UserError(
            f"{path} is no run: it has no {RECORD}, nor has a folder in it; give the folder of a run, or the record of "
            "a leaderboard."
        )
    loaded = [load_run(folder) for folder in folders]
    tell_warnings(loaded)
    runs: list[Run] = sorted(loaded, key=lambda run: run.record.started_at)
    if len({run.record.identity for run in runs}) > 1:
        raise UserError(f"{path} holds runs of different identities; repetitions of one run belong in a folder each.")
    return runs
