"""How much less a sample says when its questions come in subjects, and how much more when it comes in strata.

Guarantees one definition of the design effect for every interval here: the variance of the mean by
leaving out one subject at a time within its stratum, over the variance that independent questions would have. A
clustered sample of ``n`` then counts as ``n / design effect`` independent questions, read with
Student's quantile for ``subjects - strata`` degrees of freedom. The trade-off: subjects are treated as
drawn from a larger population, which is wider than needed if the subjects are all there are. Strata are parts whose
sizes are fixed by design, so that what differs between them is no chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.intervals import normal_quantile
from harness.stats.vectors import Codes, Floats, at_level, same_length

_NOTHING = np.finfo(float).eps  # of a variance: below it is rounding
_ROUNDING = 1e-12  # of a sum of squares, for each question


@dataclass(frozen=True)
class Units:
    """Sums of a value and numbers of questions per unit of resampling.

    A unit is a subject, or a single question where there are no subjects; a subject in two strata is a unit in each.
    """

    sums: Floats  # [..., units]
    sizes: Floats  # [units]
    subjects: int  # 0 where every question is its own unit
    strata: Codes  # [units], from 0; all 0 without strata

    @property
    def parts(self) -> int:
        """Number of strata."""
        return int(self.strata.max()) + 1

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance between units."""
        return len(self.sizes) - self.parts

    @property
    def variance(self) -> float:
        """Of the mean, see `left_out_variance`."""
        return float(left_out_variance(self.sums, self.sizes, self.strata))


def units_of(values: Floats, clusters: ArrayLike | None, strata: ArrayLike | None = None) -> Units:
    """Groups ``[n]`` values by subject.

    One subject alone cannot show how subjects vary: its questions count as independent, and the
    interval then speaks of that subject only (``subjects`` says 1). Likewise a stratum of a single unit has no
    variance of its own: then all strata are ignored, which is the wider reading.

    Raises:
        ValueError: if there are not as many names of clusters or strata as values.
    """
    n = len(values)
    parts = _codes(values, strata, "strata") if strata is not None else np.zeros(n, dtype=np.int64)
    if clusters is None:
        return Units(values, np.ones_like(values), 0, _usable(parts))
    names = _codes(values, clusters, "clusters")
    if not names.any():
        return Units(values, np.ones_like(values), 1, _usable(parts))
    both, codes = np.unique(np.stack([parts, names]), axis=1, return_inverse=True)
    if not _usable(both[0]).any():
        both, codes = np.stack([np.zeros(names.max() + 1, dtype=np.int64), np.arange(names.max() + 1)]), names
    codes = codes.reshape(-1)
    sums = np.bincount(codes, weights=values).astype(np.float64)
    return Units(sums, np.bincount(codes).astype(np.float64), int(names.max()) + 1, both[0])


def _codes(values: Floats, names: ArrayLike, what: str) -> Codes:
    listed = np.asarray(names)
    same_length(values, listed, what)
    return np.asarray(np.unique(listed.astype(str), return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _usable(strata: Codes) -> Codes:
    """The same, or one stratum for all where one of them holds a single unit."""
    return strata if np.bincount(strata).min() > 1 else np.zeros_like(strata)


def left_out_variance(sums: Floats, sizes: Floats, strata: Codes | None = None) -> Floats:
    """Variance of the mean by leaving out one unit at a time within its stratum; ``[..., units]`` to ``[...]``."""
    if strata is None or not strata.any():
        return _left_out_variance(sums, sizes)
    total = sizes.sum()
    parts = [strata == code for code in range(int(strata.max()) + 1)]
    each = [(sizes[part].sum() / total) ** 2 * _left_out_variance(sums[..., part], sizes[part]) for part in parts]
    return np.asarray(sum(each), dtype=np.float64)


def _left_out_variance(sums: Floats, sizes: Floats) -> Floats:
    total = sizes.sum()
    units = len(sizes)
    mean = sums.sum(-1, keepdims=True) / total
    shifts = (sums - mean * sizes) / (total - sizes)
    return np.asarray((units - 1) / units * np.square(shifts).sum(-1), dtype=np.float64)


def design_effect(sums: Floats, sizes: Floats, sum_of_squares: Floats, strata: Codes | None = None) -> Floats:
    """Variance of the clustered mean over that of independent questions; ``[..., units]`` to ``[...]``.

    Where either variance is zero the sample cannot tell, and a ratio would claim infinitely many or no questions. If
    no subject's answers differ among themselves, each subject then counts as one question: nothing shows that its
    questions are more. Otherwise it is 1.

    Args:
        sums: sum of the values per subject, ``[..., units]``.
        sizes: questions per subject, ``[units]``.
        sum_of_squares: over all questions, ``[...]``.
        strata: of each subject, ``[units]``; None for a single one.
    """
    n = sizes.sum()
    mean = sums.sum(-1) / n
    independent = (sum_of_squares / n - mean**2) / max(n - 1, 1)
    clustered = left_out_variance(sums, sizes, strata)
    known = (independent > _NOTHING) & (clustered > _NOTHING)
    within = sum_of_squares - (np.square(sums) / sizes).sum(-1)
    unknown = np.where(within > _ROUNDING * n, 1.0, n / len(sizes))
    return np.where(known, clustered / np.where(known, independent, 1.0), unknown)


def units_design_effect(values: Floats, units: Units) -> float:
    """The design effect of a grouped sample; 1 where questions are independent and of one stratum."""
    if units.subjects < 2 and not units.strata.any():
        return 1.0
    return float(design_effect(units.sums, units.sizes, np.asarray(np.square(values).sum()), units.strata))


def quantile(level: float, subjects: int, strata: int = 1) -> float:
    """The two-sided quantile: Student's over two or more subjects, else the normal one."""
    if subjects < 2:
        return normal_quantile(level)
    return float(stats.t.ppf((1 + at_level(level)) / 2, max(subjects - strata, 1)))
