"""The state of a run in progress, as every step of it works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.benchmarks.questions import Benchmark
from harness.channels.engine import Arm
from harness.channels.interface import Group
from harness.config import RunConfig
from harness.distributed import Ranks
from harness.evaluation.setup import Cast
from harness.inference.types import CallStats
from harness.progress import Progress, Silent
from harness.records.schema import Sample, Timing

Key = tuple[str, str, str, str]


@dataclass
class Tally:
    """CallStats done by each arm, by name."""

    work: dict[str, CallStats] = field(default_factory=dict)

    def of(self, group: Group, arm: Arm) -> CallStats:
        """The account of one arm."""
        return self.work.setdefault(arm_name(group, arm.control), CallStats())


def arm_name(group: Group, control: str) -> str:
    """Name of an arm in counters: ``c2c`` or ``c2c/mean``."""
    control = control or group.name_control
    return f"{group.channel.name}/{control}" if control else group.channel.name


@dataclass
class Session:
    """A run in progress, as one of its processes sees it.

    Attributes:
        journal: puts samples on the disk.
        done: what earlier sessions of the run answered, whichever process did it.
        samples: everything answered so far, earlier sessions included; on a further process its own of this session.
        timings: of this session only; a resumed answer never carries a timing.
        untimed: timed answers that failed and so have no timing.
        notes: what went wrong on the way without ending the run.
        shown: print the ranking when the run ends.
        bar: counts what this process answers from the first answer to the last that is timed.
    """

    config: RunConfig
    cast: Cast
    benchmark: Benchmark
    ranks: Ranks
    journal: Callable[[Sequence[Sample]], None]
    done: frozenset[Key]
    samples: list[Sample]
    timings: list[Timing] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    untimed: int = 0
    notes: list[str] = field(default_factory=list)
    shown: bool = True
    bar: Progress = field(default_factory=Silent)
