"""A mean over several trainings of the same thing that answered the same questions.

Guarantees an interval for the method and not for the trainings at hand: it allows for other questions and for
another seed. The variance of the mean over trainings and that over questions are added. What moves single answers
from training to training is in both, so the interval is a little too wide where trainings do not differ as a whole,
which is the safer side. Two trainings that happen to end close together would pretend that all of them do: an
interval takes three. ``docs/design/statistics.md`` has the measured coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.clusters import left_out_variance, units_of
from harness.stats.intervals import Interval
from harness.stats.vectors import at_level, finite

FEWEST = 3  # trainings; intervals from two cover 88% where trainings differ much


@dataclass(frozen=True)
class Repeated:
    """A mean over trainings and questions, as a fraction.

    Attributes:
        each: of every training.
        n: questions.
        interval: None of fewer than three trainings, or where neither they nor the questions differ, so that nothing
            tells how far off the mean is.
    """

    mean: float
    each: tuple[float, ...]
    n: int
    interval: Interval | None


def repeated(
    values: ArrayLike, clusters: ArrayLike | None = None, lowest: float = -1.0, level: float = 0.95
) -> Repeated:
    """Averages over trainings, with Student's interval at Satterthwaite's degrees of freedom.

    Args:
        values: per training and question, ``[trainings, n]``: right or wrong, or a paired difference of the two.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        lowest: what a value can be; bounds the interval, which ends at 1.
        level: of the interval.

    Raises:
        ValueError: if there are fewer than two trainings or questions, or any value is NaN.
    """
    table = np.stack([finite(row, "values") for row in np.asarray(values, dtype=np.float64)])
    trainings, n = table.shape
    if trainings < 2 or n < 2:
        raise ValueError(f"{trainings} trainings on {n} questions: how much they differ needs two of each.")
    each = table.mean(1)
    units = units_of(table.mean(0), clusters)
    parts = np.array([each.var(ddof=1) / trainings, float(left_out_variance(units.sums, units.sizes))])
    freedom = np.array([trainings - 1, len(units.sizes) - 1])
    told = trainings >= FEWEST and parts.sum() > np.finfo(float).eps
    interval = _student(float(each.mean()), parts, freedom, lowest, level) if told else None
    return Repeated(float(each.mean()), tuple(map(float, each)), n, interval)


def _student(mean: float, parts: np.ndarray, freedom: np.ndarray, lowest: float, level: float) -> Interval:
    degrees = parts.sum() ** 2 / (parts**2 / freedom).sum()
    half = float(stats.t.ppf((1 + at_level(level)) / 2, degrees) * np.sqrt(parts.sum()))
    return Interval(max(mean - half, lowest), min(mean + half, 1.0))
