"""Was the machine busy with something else while answers were timed?

Guarantees that seconds are judged only where the processors had room for them. Timings of before the load was recorded
say nothing and are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.schema import Timing
from harness.regression.pairing import Run

# Cores that others may use where a run has none to spare: the system itself is never quite idle.
TOLERATED = 0.25


def busy(baselines: Sequence[Run], runs: Sequence[Run]) -> str:
    """Returns a sentence where other processes used cores that one of the runs wanted; empty where none did."""
    hardware = baselines[0].record.hardware
    spare = max(hardware.cores - hardware.threads, 0) + TOLERATED
    loads = [max(_others(run.timings) for run in side) for side in (baselines, runs)]
    if max(loads) <= spare:
        return ""
    return (
        f"the machine was busy: other processes used {loads[0]:.1f} of {hardware.cores} cores beside the baseline, "
        f"{loads[1]:.1f} beside the run, which had {hardware.threads} threads itself; seconds are not judged"
    )


def _others(timings: Iterable[Timing]) -> float:
    """Cores that other processes kept busy, on average over the timed seconds of a run."""
    others_s = wall_s = 0.0
    for timing in timings:
        if timing.load is not None and timing.cpu_s is not None and timing.e2e_s > 0:
            others_s += timing.load * timing.e2e_s - timing.cpu_s
            wall_s += timing.e2e_s
    return others_s / wall_s if wall_s else 0.0
