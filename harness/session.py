"""A run in progress: what every step of it works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.accuracy import Key, Tally
from harness.assembly import Cast
from harness.config import RunConfig
from harness.loading_tasks import Benchmark
from harness.ranks import Ranks
from harness.records.schema import Sample, Timing


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
