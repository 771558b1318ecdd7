"""The accuracy of one channel, with an interval that keeps its promise.

Guarantees about 95% coverage where it is claimed; ``docs/design/statistics.md`` has the measured
figures. Without subjects the interval is Wilson's; with them, and with strata, it is Wilson's at the
effective number of questions.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from harness.stats.clusters import quantile, units_design_effect, units_of
from harness.stats.intervals import Interval, wilson_bounds
from harness.stats.resampling import RESAMPLES, resampled_means, spread
from harness.stats.vectors import binary


@dataclass(frozen=True)
class Score:
    """An accuracy between 0 and 1 and what is known about it."""

    accuracy: float
    n: int
    right: int
    interval: Interval
    bootstrap: Interval
    subjects: int  # 0 where the questions were taken as independent
    design_effect: float


def score(
    correct: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    strata: ArrayLike | None = None,
) -> Score:
    """Measures one channel.

    Args:
        correct: 0 or 1 per question, ``[n]``; failed questions left out and counted elsewhere.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        seed: of the bootstrap.
        level: of both intervals.
        resamples: of the bootstrap.
        strata: the part of fixed size that each question belongs to, ``[n]``, or nothing where the task has none.

    Raises:
        ValueError: if ``correct`` is empty, holds a NaN or anything but 0 and 1.
    """
    values = binary(correct, "correct")
    units = units_of(values, clusters, strata)
    effect = units_design_effect(values, units)
    n, right = len(values), int(values.sum())
    low, high = wilson_bounds(right / effect, n / effect, quantile(level, units.subjects, units.parts))
    drawn = spread(resampled_means(units, seed, resamples), level)
    return Score(right / n, n, right, Interval(float(low), float(high)), drawn, units.subjects, effect)
