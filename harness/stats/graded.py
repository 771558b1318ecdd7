"""Means of paired values that are not just right or wrong.

Guarantees Student's interval for a mean, with subjects by leaving out one at a time. It serves graded scores
(F1 of a long document) and differences between two effects, whose values run from -2 to 2. Without
the two outcomes of a test question there is no score interval, so few questions with rare
differences are covered less well than by ``paired``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.clusters import units_of
from harness.stats.intervals import Interval
from harness.stats.vectors import Floats, at_level, binary, finite, same_length


@dataclass(frozen=True)
class MeanEffect:
    """A mean of per-question values with its interval and Student's two-sided p-value."""

    mean: float
    n: int
    interval: Interval
    p_value: float
    subjects: int  # 0 where the questions were taken as independent


def mean_effect(
    values: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95, strata: ArrayLike | None = None
) -> MeanEffect:
    """Measures the mean of one value per question, ``[n]``.

    Raises:
        ValueError: if there are fewer than two values or any is NaN.
    """
    checked = finite(values)
    if len(checked) < 2:
        raise ValueError("a mean needs two values or more to have an interval.")
    units = units_of(checked, clusters, strata)
    error = math.sqrt(units.variance)
    mean, freedom = float(checked.mean()), units.freedom
    half = error * float(stats.t.ppf((1 + at_level(level)) / 2, freedom))
    return MeanEffect(mean, len(checked), Interval(mean - half, mean + half), _p(mean, error, freedom), units.subjects)


def paired_graded(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    strata: ArrayLike | None = None,
) -> MeanEffect:
    """Compares two channels whose scores are graded: mean of ``a - b`` over the same questions.

    Raises:
        ValueError: if the lengths differ, there are fewer than two questions or a score is NaN.
    """
    first, second = finite(a, "a"), finite(b, "b")
    same_length(first, second, "a and b")
    return mean_effect(first - second, clusters, level, strata)


def effect_difference(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    strata: ArrayLike | None = None,
) -> MeanEffect:
    """Compares two paired effects on the same questions, such as the content effects of two channels.

    Args:
        first: right or wrong with and without the first effect, each ``[n]``.
        second: the same for the second effect.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        level: of the interval.
        strata: the part of fixed size that each question belongs to, ``[n]``, or nothing where the task has none.

    Raises:
        ValueError: if the vectors differ in length, hold a NaN or anything but 0 and 1.
    """
    one, two = _gains(first), _gains(second)
    same_length(one, two, "the two effects")
    return mean_effect(one - two, clusters, level, strata)


def _gains(effect: tuple[ArrayLike, ArrayLike]) -> Floats:
    with_it, without_it = (binary(values, "effect") for values in effect)
    same_length(with_it, without_it, "effect")
    return with_it - without_it


def _p(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))
