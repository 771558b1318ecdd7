"""Processor time of this process and of the whole machine, so that a busy machine is seen beside every timing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import psutil

# Time that a hypervisor gave to somebody else is work of others. Guests are part of `user` and `nice` already.
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class Moment(NamedTuple):
    """Readings of three clocks, in seconds: of the wall, of this process, of all processors."""

    wall_s: float
    own_s: float
    machine_s: float


@dataclass(frozen=True)
class Spent:
    """What passed since a moment.

    Attributes:
        cpu_s: processor seconds of this process, over all its threads.
        load: cores of the machine that were busy on average. The system counts in ticks, mostly of 10 ms, so that only
            the mean over many timings is exact.
    """

    cpu_s: float
    load: float


def moment() -> Moment:
    """Reads the clocks."""
    times = psutil.cpu_times()
    machine_s = sum(getattr(times, name, 0.0) for name in _BUSY)
    return Moment(time.perf_counter(), time.process_time(), machine_s)


def spent_since(start: Moment) -> Spent:
    """Returns what this process and the machine did since `start`."""
    end = moment()
    wall_s = max(end.wall_s - start.wall_s, 1e-9)
    return Spent(end.own_s - start.own_s, max(end.machine_s - start.machine_s, 0.0) / wall_s)
