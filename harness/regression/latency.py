"""Seconds of baseline and run: judged only where the two took turns on one idle machine in one job.

Guarantees that no other processor, and no machine that was busy with something else, is taken for a change of the
code: seconds that cannot be compared are said and fail nothing. It accepts that a stored baseline says nothing about
latency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from harness.errors import UserError
from harness.records.schema import Timing
from harness.regression.answers import same_hardware
from harness.regression.load import busy
from harness.regression.pairing import Run
from harness.regression.seconds import Second, judge
from harness.regression.verdicts import Options, Verdict
from harness.results.wording import arm_text

METRICS: Mapping[str, Callable[[Timing], float]] = {"TTFT": lambda t: t.ttft_s, "end to end": lambda t: t.e2e_s}

Group = tuple[str, str, str, bool]


def latency(baselines: Sequence[Run], runs: Sequence[Run], options: Options) -> list[Verdict]:
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
    if reason := busy(baselines, runs):
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
            yield judge(subject, sides[0], sides[1], options)


def _by_group(timings: Iterable[Timing]) -> dict[Group, list[Timing]]:
    groups: dict[Group, list[Timing]] = defaultdict(list)
    for timing in timings:
        groups[(timing.task, timing.channel, timing.control, timing.equal_length)].append(timing)
    return groups
