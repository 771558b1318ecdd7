"""Compares the seconds of baseline and run, where the two took turns on one idle machine in one job.

Guarantees that the same work is compared (same question, same number of decoded tokens) and that no other processor or
busy machine is taken for a change of the code: seconds that cannot be compared are reported and fail nothing. Timings
without a recorded load are taken as they are. A stored baseline says nothing about latency. An arm is slower if a
ratio, a rank test and a repetition all agree; the check is blind below the ratio, so a shared machine's noise stops no
build.

As questions differ in length more than builds do, each is first moved to its own centre. The ratio of medians is then
that of seconds relative to their question; the Mann-Whitney test becomes the one on aligned ranks (Hodges and Lehmann,
1962), with the variance over permutations within questions, so its level holds. With one question both are the plain
ones (normal approximation, with ties, without continuity correction).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.errors import UserError
from harness.records.schema import Timing
from harness.regression.exact_check import same_hardware
from harness.regression.pairing import Run
from harness.regression.verdicts import Options, Verdict, p_words
from harness.results.formatting import arm_text, seconds_text

Seconds = tuple[list[float], list[float]]

Blocks = Mapping[Any, Seconds]  # question -> (seconds of the baseline, seconds of the run), neither side empty


def aligned_ratio(blocks: Blocks) -> float:
    """Returns the ratio of medians, run over baseline, of seconds relative to their question."""
    values, is_head = _aligned(blocks)
    return math.exp(float(np.median(values[is_head]) - np.median(values[~is_head])))


def aligned_rank_p(blocks: Blocks) -> float:
    """Returns the two-sided p-value that baseline and run come from one distribution."""
    values, is_head = _aligned(blocks)
    from scipy.stats import rankdata

    ranks = rankdata(values)
    excess, variance, start = 0.0, 0.0, 0
    for base, head in blocks.values():
        size = len(base) + len(head)
        inside = slice(start, start + size)
        deviations = ranks[inside] - ranks[inside].mean()
        excess += float(deviations[is_head[inside]].sum())
        variance += len(base) * len(head) / (size * (size - 1)) * float((deviations**2).sum())
        start += size
    return 1.0 if variance == 0 else float(2 * special.ndtr(-abs(excess) / math.sqrt(variance)))


def _aligned(blocks: Blocks) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns log seconds less their question's mean, block after block, and which of them are the run's."""
    logs = [np.log(np.array([*base, *head], dtype=float)) for base, head in blocks.values()]
    sides = [np.arange(len(base) + len(head)) >= len(base) for base, head in blocks.values()]
    return np.concatenate([values - values.mean() for values in logs]), np.concatenate(sides)


FEWEST = 10


Work = tuple[str, int]


@dataclass(frozen=True)
class Second:
    """One measured duration: of which work (question, decoded tokens), in which round, how many seconds."""

    work: Work
    round: int
    seconds: float


Side = list[Second]


def judge_duration(subject: str, base: Side, head: Side, options: Options) -> Verdict:
    """Returns the verdict on one duration of one arm.

    Args:
        subject: Task, arm and duration in words.
        base: Seconds of the baseline.
        head: Seconds of the run.
        options: Ratio and level.
    """
    if broken := sum(not (math.isfinite(s.seconds) and s.seconds > 0) for s in [*base, *head]):
        text = f"{broken} of {len(base) + len(head)} timings are not positive numbers"
        return Verdict("not comparable", "latency", subject, text)
    base, head = _same_work(base, head)
    if min(len(base), len(head)) < FEWEST:
        text = f"{len(base)} and {len(head)} timings of the same work; at least {FEWEST} a side are needed"
        return Verdict("warning", "latency", subject, text)
    return _compare(subject, base, head, options)


def _compare(subject: str, base: Side, head: Side, options: Options) -> Verdict:
    blocks, limit = _blocks(base, head), options.latency_ratio
    ratio, p = aligned_ratio(blocks), aligned_rank_p(blocks)
    text = f"{_median(base)} -> {_median(head)} (x{ratio:.3f}, {p_words(p)}, {len(base)} and {len(head)} timings)"
    if 1 / limit <= ratio <= limit:
        return Verdict("same", "latency", subject, text)
    if p >= options.latency_alpha:
        return Verdict("warning", "latency", subject, f"{text}; not resolved at this n")
    if not _repeated(base, head, ratio, limit):
        return Verdict("warning", "latency", subject, f"{text}; not repeated in both halves of the rounds")
    return Verdict("regression" if ratio > limit else "better", "latency", subject, text)


def _repeated(base: Side, head: Side, ratio: float, limit: float) -> bool:
    """Whether each half of the rounds, alone, is beyond the limit in the same direction."""
    halves = [_same_work(*half) for half in zip(_halves(base), _halves(head), strict=True)]
    if not all(old and new for old, new in halves):
        return False
    ratios = [aligned_ratio(_blocks(*half)) for half in halves]
    return min(ratios) > limit if ratio > limit else max(ratios) < 1 / limit


def _halves(side: Side) -> tuple[Side, Side]:
    rounds = sorted({s.round for s in side})
    later = set(rounds[(len(rounds) + 1) // 2 :])
    return [s for s in side if s.round not in later], [s for s in side if s.round in later]


def _same_work(base: Side, head: Side) -> tuple[Side, Side]:
    works = {s.work for s in base} & {s.work for s in head}
    return [s for s in base if s.work in works], [s for s in head if s.work in works]


def _blocks(base: Side, head: Side) -> dict[Work, Seconds]:
    blocks: dict[Work, Seconds] = defaultdict(lambda: ([], []))
    for i, side in enumerate((base, head)):
        for s in side:
            blocks[s.work][i].append(s.seconds)
    return blocks


def _median(side: Side) -> str:
    return seconds_text(float(np.median([s.seconds for s in side])))


# Cores that others may use where a run has none to spare: the system itself is never quite idle.
TOLERATED = 0.25


def busy_sentence(baselines: Sequence[Run], runs: Sequence[Run]) -> str:
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


METRICS: Mapping[str, Callable[[Timing], float]] = {"TTFT": lambda t: t.ttft_s, "end to end": lambda t: t.e2e_s}


Group = tuple[str, str, str, bool]


def check_latency(baselines: Sequence[Run], runs: Sequence[Run], options: Options) -> list[Verdict]:
    """Compares TTFT and end-to-end seconds of every task and arm.

    Args:
        baselines: The baseline, or its repetitions in the order in which they ran.
        runs: The run, or its repetitions.
        options: Ratio and level.
    """
    base, head = _timings(baselines), _timings(runs)
    if not base and not head:
        return []
    if reason := _incomparable(baselines, runs, base, head):
        return [Verdict("not comparable", "latency", "", reason, excused=True)]
    if reason := busy_sentence(baselines, runs):
        return [Verdict("warning", "latency", "", reason)]
    return list(_groups(base, head, options))


def _timings(runs: Sequence[Run]) -> list[Timing]:
    """Joins repetitions; rounds go on counting from one repetition to the next."""
    joined: list[Timing] = []
    for run in runs:
        first = 1 + max((timing.round for timing in joined), default=-1)
        joined += [timing.model_copy(update={"round": first + timing.round}) for timing in run.timings]
    return joined


def _incomparable(baselines: Sequence[Run], runs: Sequence[Run], base: Sequence[Timing], head: Sequence[Timing]) -> str:
    if not base or not head:
        return f"The {'run' if base else 'baseline'} has no timings, so seconds were not compared."
    sides = [*baselines, *runs]
    if not all(same_hardware(sides[0], side) for side in sides):
        return "The hardware fingerprints differ or are unknown, so seconds were not compared."
    if len({side.record.job for side in sides}) > 1 or not sides[0].record.job:
        return "The runs are of different jobs or do not name one (--job), so seconds were not compared."
    if not _alternated(baselines, runs):
        return (
            "Baseline and run did not take turns, at least two each, so a drift of the machine would look like a "
            "change: seconds were not compared."
        )
    return ""


def _alternated(baselines: Sequence[Run], runs: Sequence[Run]) -> bool:
    """Whether the runs came in neighbouring pairs of both sides, such as base, head, head, base."""
    starts = [(_started(run), side) for side, of_side in enumerate((baselines, runs)) for run in of_side]
    turns = [side for _, side in sorted(starts)]
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    return len(turns) % 2 == 0 and len(pairs) > 1 and all(first != second for first, second in pairs)


def _started(run: Run) -> datetime:
    stamp = run.record.started_at
    try:
        moment = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError as error:
        raise UserError(f"Run {run.record.run_id!r} has started_at {stamp!r}, which is no ISO 8601 time.") from error
    return moment.replace(tzinfo=None) if moment.utcoffset() is None else moment.astimezone().replace(tzinfo=None)


def _groups(base: Sequence[Timing], head: Sequence[Timing], options: Options) -> Iterable[Verdict]:
    old, new = _by_group(base), _by_group(head)
    for group in sorted(old):
        for name, metric in METRICS.items():
            task, channel, control, equal_length = group
            subject = f"{task} {arm_text(channel, control)} {name}{' at equal length' if equal_length else ''}"
            sides = [
                [Second((t.doc_id, t.tokens_out), t.round, metric(t)) for t in side.get(group, [])]
                for side in (old, new)
            ]
            yield judge_duration(subject, sides[0], sides[1], options)


def _by_group(timings: Iterable[Timing]) -> dict[Group, list[Timing]]:
    groups: dict[Group, list[Timing]] = defaultdict(list)
    for timing in timings:
        groups[(timing.task, timing.channel, timing.control, timing.equal_length)].append(timing)
    return groups
