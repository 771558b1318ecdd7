"""Means of graded values, and means over several trainings.

Graded values, such as the F1 of a long document or differences of two effects (from -2 to 2), get Student's interval,
leaving out one subject at a time. Few questions with rare differences are covered less well than by ``paired``.

A mean over trainings that answered the same questions is a figure of the method: its interval allows for other
questions and other seeds. The variances over trainings and over questions are added; what moves single answers between
trainings is in both, so the interval errs on the wide side where trainings do not differ as a whole. Two trainings may
end close together by chance, so an interval takes three. Things trained apart are compared without pairing their
trainings, which share a number and nothing else. ``docs/design/statistics.md`` has the measured coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.distributions import t_ppf, t_tails
from harness.stats.intervals import Floats, Interval, at_level, binary_values, finite_values, same_length
from harness.stats.paired import units_of


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
    checked = finite_values(values)
    if len(checked) < 2:
        raise ValueError("a mean needs two values or more to have an interval.")
    units = units_of(checked, clusters, strata)
    error = math.sqrt(units.variance)
    mean, freedom = float(checked.mean()), units.freedom
    half = error * t_ppf((1 + at_level(level)) / 2, freedom)
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
    first, second = finite_values(a, "a"), finite_values(b, "b")
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
    with_it, without_it = (binary_values(values, "effect") for values in effect)
    same_length(with_it, without_it, "effect")
    return with_it - without_it


def _p(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tails(mean / error, freedom)


FEWEST = 3  # trainings; intervals from two cover 88% where trainings differ much


@dataclass(frozen=True)
class Repeated:
    """A mean over trainings and questions, as a fraction.

    Attributes:
        each: of every training; empty for a difference of things that were trained apart.
        n: questions.
        interval: None of fewer than three trainings, or where neither they nor the questions differ, so that nothing
            tells how far off the mean is.
        p_value: Student's, two-sided, that the mean is zero; None where there is no interval.
        trainings: how many, on each side of a difference of things that were trained apart.
    """

    mean: float
    each: tuple[float, ...]
    n: int
    interval: Interval | None
    p_value: float | None = None
    trainings: tuple[int, ...] = ()


def repeated(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    lowest: float = -1.0,
    level: float = 0.95,
    strata: ArrayLike | None = None,
) -> Repeated:
    """Averages over trainings, with Student's interval at Satterthwaite's degrees of freedom.

    Args:
        values: per training and question, ``[trainings, n]``: right or wrong, or a paired difference of the two.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        lowest: what a value can be; bounds the interval, which ends at 1.
        level: of the interval.
        strata: the part of fixed size that each question belongs to, ``[n]``, or nothing where the task has none.

    Raises:
        ValueError: if there are fewer than two trainings or questions, or any value is NaN.
    """
    table = _table(values)
    return _measured([table], table.mean(0), (clusters, strata), (lowest, level))


def repeated_difference(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    strata: ArrayLike | None = None,
) -> Repeated:
    """Compares two things that were trained apart: paired over questions, unpaired over trainings.

    Args:
        first: right or wrong per training and question, ``[trainings, n]``.
        second: the same questions under the trainings of the other thing, ``[its trainings, n]``.
        clusters: as for ``repeated``.
        level: of the interval.
        strata: as for ``repeated``.

    Raises:
        ValueError: if there are fewer than two trainings or questions on a side, the questions differ in number, or
            any value is NaN.
    """
    ours, theirs = _table(first), _table(second)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{ours.shape[1]} questions against {theirs.shape[1]}; keep those that both sides answered.")
    return _measured([ours, theirs], ours.mean(0) - theirs.mean(0), (clusters, strata), (-1.0, level))


def _table(values: ArrayLike) -> Floats:
    table = np.stack([finite_values(row, "values") for row in np.asarray(values, dtype=np.float64)])
    trainings, n = table.shape
    if trainings < 2 or n < 2:
        raise ValueError(f"{trainings} trainings on {n} questions: how much they differ needs two of each.")
    return table


def _measured(
    sides: list[Floats],
    by_question: Floats,
    grouping: tuple[ArrayLike | None, ArrayLike | None],
    limits: tuple[float, float],
) -> Repeated:
    units = units_of(by_question, *grouping)
    parts = np.array([*(side.mean(1).var(ddof=1) / len(side) for side in sides), units.variance])
    freedom = np.array([*(len(side) - 1 for side in sides), units.freedom])
    mean, each = float(by_question.mean()), tuple(map(float, sides[0].mean(1))) if len(sides) == 1 else ()
    trainings = tuple(map(len, sides))
    if min(trainings) < FEWEST or parts.sum() <= np.finfo(float).eps:
        return Repeated(mean, each, len(by_question), None, None, trainings)
    interval, p_value = _student(mean, parts, freedom, *limits)
    return Repeated(mean, each, len(by_question), interval, p_value, trainings)


def _student(mean: float, parts: Floats, freedom: Floats, lowest: float, level: float) -> tuple[Interval, float]:
    degrees, error = parts.sum() ** 2 / (parts**2 / freedom).sum(), float(np.sqrt(parts.sum()))
    half = t_ppf((1 + at_level(level)) / 2, degrees) * error
    return Interval(max(mean - half, lowest), min(mean + half, 1.0)), t_tails(mean / error, degrees)
