"""How much faster a channel answers than text: ratios between timings that ran next to each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness import stats
from harness.records.schema import Timing
from harness.results.groups import Arm, Groups, arm_order, members, yardstick
from harness.results.rows import natural
from harness.results.wording import arm_text


@dataclass(frozen=True)
class SpeedUp:
    """Seconds of T2T, or of its first variant, over seconds of an arm, end to end: above 1 the arm is faster.

    Attributes:
        low: None, like `high`, where too few questions were timed for an interval.
        n: questions that both answered next to each other, each counted once.
        lost: questions that were timed in this run, but not through both.
    """

    task: str
    arm: Arm
    ratio: float
    low: float | None
    high: float | None
    n: int
    lost: int = 0


def speed_ups(timings: Iterable[Timing], groups: Groups | None = None) -> list[SpeedUp]:
    """Compares each arm's end-to-end seconds with T2T's on the same questions in the same rounds.

    Args:
        timings: One run's timings, so one machine's.
        groups: Group -> tasks.

    Returns:
        The ratio of medians over questions with its 95% bootstrap interval, where both sides have timings.
    """
    known = natural(list(timings))
    found = []
    for name, inside in members(groups, (timing.task for timing in known)).items():
        ours = [timing for timing in known if timing.task in inside]
        arms = sorted({(timing.channel, timing.control) for timing in ours}, key=arm_order)
        text = yardstick("to_t2t", arms)
        pairs = [(arm, text) for arm in arms if text is not None and arm != text]
        found += [one for pair in pairs if (one := _speed_up(name, *pair, ours)) is not None]
    return found


def _speed_up(name: str, arm: Arm, base: Arm, timings: Sequence[Timing]) -> SpeedUp | None:
    ours, text = _seconds(timings, arm), _seconds(timings, base)
    pairs = sorted(ours.keys() & text.keys())
    if not pairs:
        return None
    questions = [f"{task}/{doc_id}" for task, doc_id, _ in pairs]
    found = stats.paired_ratio([text[p] for p in pairs], [ours[p] for p in pairs], questions=questions)
    ratio, interval = found.ratio_of_medians.value, found.ratio_of_medians.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    timed = {(timing.task, timing.doc_id) for timing in timings}
    return SpeedUp(name, arm, ratio, low, high, found.n, len(timed) - found.n)


def lost_timings(timings: Iterable[Timing]) -> list[str]:
    """Says of each task which arms have fewer usable timings than another arm of it."""
    known = natural(list(timings))
    notes = []
    for task in dict.fromkeys(timing.task for timing in known):
        ours = [timing for timing in known if timing.task == task]
        expected = {(timing.doc_id, timing.round) for timing in ours}
        for arm in sorted({(timing.channel, timing.control) for timing in ours}, key=arm_order):
            usable = len(_seconds(ours, arm))
            if usable < len(expected):
                notes.append(f"{arm_text(*arm)} on {task}: {usable} of {len(expected)} timings; latency is over those.")
    return notes


def _seconds(timings: Sequence[Timing], arm: Arm) -> dict[tuple[str, str, int], float]:
    own = (t for t in timings if (t.channel, t.control) == arm and 0 < t.e2e_s < math.inf)
    return {(t.task, t.doc_id, t.round): t.e2e_s for t in own}
