"""How much less a sample says when its questions come in subjects.

Guarantees one definition of the design effect for every interval here: the variance of the mean by
leaving out one subject at a time, over the variance that independent questions would have. A
clustered sample of ``n`` then counts as ``n / design effect`` independent questions, read with
Student's quantile for ``subjects - 1`` degrees of freedom. The trade-off: subjects are treated as
drawn from a larger population, which is wider than needed if the subjects are all there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.intervals import normal_quantile
from harness.stats.vectors import Floats, at_level, same_length


@dataclass(frozen=True)
class Units:
    """Sums of a value and numbers of questions per unit of resampling.

    A unit is a subject, or a single question where there are no subjects.
    """

    sums: Floats  # [..., units]
    sizes: Floats  # [units]
    subjects: int  # 0 where every question is its own unit


def units_of(values: Floats, clusters: ArrayLike | None) -> Units:
    """Groups ``[n]`` values by subject.

    One subject alone cannot show how subjects vary: its questions count as independent, and the
    interval then speaks of that subject only (``subjects`` says 1).

    Raises:
        ValueError: if there are not as many cluster names as values.
    """
    if clusters is None:
        return Units(values, np.ones_like(values), 0)
    names = np.asarray(clusters)
    same_length(values, names, "clusters")
    distinct, codes = np.unique(names.astype(str), return_inverse=True)
    if len(distinct) == 1:
        return Units(values, np.ones_like(values), 1)
    sums = np.bincount(codes, weights=values).astype(np.float64)
    return Units(sums, np.bincount(codes).astype(np.float64), len(distinct))


def left_out_variance(sums: Floats, sizes: Floats) -> Floats:
    """Variance of the mean by leaving out one unit at a time; ``[..., units]`` to ``[...]``."""
    total = sizes.sum()
    units = len(sizes)
    mean = sums.sum(-1, keepdims=True) / total
    shifts = (sums - mean * sizes) / (total - sizes)
    return np.asarray((units - 1) / units * np.square(shifts).sum(-1), dtype=np.float64)


def design_effect(sums: Floats, sizes: Floats, sum_of_squares: Floats) -> Floats:
    """Variance of the clustered mean over that of independent questions; ``[..., units]`` to ``[...]``.

    It is 1 where either variance is zero: then the sample cannot tell, and a ratio would claim
    infinitely many or no questions.

    Args:
        sums: sum of the values per subject, ``[..., units]``.
        sizes: questions per subject, ``[units]``.
        sum_of_squares: over all questions, ``[...]``.
    """
    n = sizes.sum()
    mean = sums.sum(-1) / n
    independent = (sum_of_squares / n - mean**2) / (n - 1)
    clustered = left_out_variance(sums, sizes)
    known = (independent > np.finfo(float).eps) & (clustered > np.finfo(float).eps)
    return np.where(known, clustered / np.where(known, independent, 1.0), 1.0)


def units_design_effect(values: Floats, units: Units) -> float:
    """The design effect of a grouped sample, 1 without subjects."""
    if units.subjects < 2:
        return 1.0
    return float(design_effect(units.sums, units.sizes, np.asarray(np.square(values).sum())))


def quantile(level: float, subjects: int) -> float:
    """The two-sided quantile: Student's over two or more subjects, else the normal one."""
    if subjects < 2:
        return normal_quantile(level)
    return float(stats.t.ppf((1 + at_level(level)) / 2, subjects - 1))
