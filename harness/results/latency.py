"""How much faster a channel answers than text: ratios between timings that ran next to each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness import stats
from harness.records.schema import Timing
from harness.results.groups import T2T, Arm, Groups, arm_order, members
from harness.results.rows import natural


@dataclass(frozen=True)
class SpeedUp:
    """Seconds of T2T over seconds of an arm, end to end: above 1 the arm is faster.

    The bounds are None where too few questions were timed for an interval.
    """

    task: str
    arm: Arm
    ratio: float
    low: float | None
    high: float | None
    n: int


def speed_ups(timings: Iterable[Timing], groups: Groups | None = None) -> list[SpeedUp]:
    """Compares each arm's end-to-end seconds with T2T's on the same questions in the same rounds.

    Args:
        timings: One run's timings, so one machine's.
        groups: Group -> tasks.

    Returns:
        The ratio of medians with its 95% bootstrap interval, where both sides have timings.
    """
    kept = natural([timing for timing in timings if 0 < timing.e2e_s < math.inf])
    found = []
    for name, inside in members(groups, (timing.task for timing in kept)).items():
        ours = [timing for timing in kept if timing.task in inside]
        arms = sorted({(timing.channel, timing.control) for timing in ours} - {T2T}, key=arm_order)
        found += [speed_up for arm in arms if (speed_up := _speed_up(name, arm, ours)) is not None]
    return found


def _speed_up(name: str, arm: Arm, timings: Sequence[Timing]) -> SpeedUp | None:
    ours, text = _seconds(timings, arm), _seconds(timings, T2T)
    pairs = sorted(ours.keys() & text.keys())
    if not pairs:
        return None
    found = stats.paired_ratio([text[pair] for pair in pairs], [ours[pair] for pair in pairs])
    ratio, interval = found.ratio_of_medians.value, found.ratio_of_medians.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return SpeedUp(name, arm, ratio, low, high, len(pairs))


def _seconds(timings: Sequence[Timing], arm: Arm) -> dict[tuple[str, str, int], float]:
    return {(t.task, t.doc_id, t.round): t.e2e_s for t in timings if (t.channel, t.control) == arm}
