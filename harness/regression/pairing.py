"""Lays two runs side by side, arm by arm: the only place that decides which samples belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.records.schema import RunRecord, Sample, Timing
from harness.results.baselines import DERIVED
from harness.results.groups import Arm, Facts, Key, tables
from harness.results.wording import arm_text

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
