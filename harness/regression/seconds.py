"""Judges the seconds of one arm: slower takes a ratio, a rank test and a repetition, all three.

Guarantees that only the same work is compared: the same question with the same number of decoded tokens. It accepts
being blind below the ratio, so that the noise of a shared machine does not stop a build.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from harness.regression.ranks import Seconds, aligned_rank_p, aligned_ratio
from harness.regression.verdicts import Options, Verdict, p_words
from harness.results.wording import seconds_text

FEWEST = 10

Work = tuple[str, int]


@dataclass(frozen=True)
class Second:
    """One measured duration: of which work (question, decoded tokens), in which round, how many seconds."""

    work: Work
    round: int
    seconds: float


Side = list[Second]


def judge(subject: str, base: Side, head: Side, options: Options) -> Verdict:
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
