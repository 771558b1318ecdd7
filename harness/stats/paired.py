"""Accuracies and paired differences of answers to the same questions, with subjects and strata.

Guarantees about 95% coverage (measured in ``docs/design/statistics.md``) and, for differences, an exact p-value. Scores
have Wilson's interval and differences Tango's, with subjects or strata at the effective number of questions. The
percentile bootstrap is shown too, but no verdict uses it: it covers too seldom at few questions. Resampling gives the
same numbers for the same seed, in bounded memory, with exactly the distribution of drawing all values anew.

The design effect is the variance of the mean by leaving out one subject at a time within its stratum, over that of
independent questions. ``n`` clustered questions count as ``n / design effect`` independent ones, read with Student's
quantile for ``subjects - strata`` degrees of freedom. Subjects are taken as drawn from a larger population, which is
wider than needed if they are all there are. Strata have sizes fixed by design, so differences between them are no
chance.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.distributions import sign_test, t_ppf
from harness.stats.intervals import (
    Codes,
    Floats,
    Interval,
    at_level,
    binary_values,
    detectable_effect,
    normal_quantile,
    same_length,
    tango_bounds,
    wilson_bounds,
)

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
    return t_ppf((1 + at_level(level)) / 2, max(subjects - strata, 1))


RESAMPLES = 10_000

_BLOCK_VALUES = 2_000_000

_TIE = 1e-12  # relative difference below which two sums are equal


def resample_blocks(resamples: int, width: int) -> Iterator[int]:
    """Yields numbers of rows that add up to ``resamples``, each block at most 2M values of ``width``."""
    rows = max(1, _BLOCK_VALUES // max(width, 1))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def bootstrap_interval(draws: Floats, level: float) -> Interval:
    """The central part of the draws as an interval (the percentile bootstrap)."""
    low, high = np.quantile(draws, [(1 - at_level(level)) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resampled_means(units: Units, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Means of samples drawn unit by unit with replacement, each stratum at its own size, ``[resamples]``."""
    drawn = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for code in range(units.parts):
        part = units.strata == code
        share = units.sizes[part].sum() / units.sizes.sum()
        means += share * _resampled(units.sums[part], units.sizes[part], drawn, resamples)
    return means


def _resampled(sums: Floats, sizes: Floats, drawn: np.random.Generator, resamples: int) -> Floats:
    pairs, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    total = int(counts.sum())
    means = [
        _means(drawn.multinomial(total, counts / total, size=rows), pairs)
        for rows in resample_blocks(resamples, len(pairs))
    ]
    return np.concatenate(means)


def _means(times_drawn: Codes, pairs: Floats) -> Floats:
    totals = times_drawn @ pairs  # [rows, 2]
    return np.asarray(totals[:, 0] / totals[:, 1], dtype=np.float64)


def sign_flip_p(sums: Floats, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided randomisation test that the sums per subject are symmetric about zero.

    Each subject's sum changes sign with probability one half; with one question a subject this is
    the exact McNemar test. Whole sums, as of right and wrong answers, give the exact p, however small. Others are
    tested with drawn signs, whose smallest p is ``1 / (resamples + 1)``, or with every pattern of signs where there are
    no more patterns than draws.

    Args:
        sums: one a subject, ``[subjects]``.
        seed: of drawn signs.
        resamples: of drawn signs.
    """
    moved = np.abs(sums[sums != 0])
    if np.array_equal(moved, np.round(moved)):
        return _exact_p(moved.astype(np.int64), round(abs(float(sums.sum()))))
    if 2 ** len(moved) <= resamples:
        patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moved))))
        return float(np.mean(np.abs(patterns @ moved) >= abs(float(sums.sum())) - _TIE * moved.sum()))
    return _drawn_p(sums, seed, resamples)


def _exact_p(sizes: Codes, seen: int) -> float:
    """Convolves the laws of the single signed sums; only positive terms are added, so that small tails are exact."""
    law: Floats = np.ones(1)  # of the part of all sizes whose sign is plus
    for size in sizes:
        grown = np.zeros(len(law) + size)
        grown[: len(law)] = law
        grown[size:] += law
        law = grown / 2
    total = int(sizes.sum())
    # Plus minus minus is twice the plus part less the total.
    tail = law[(total + seen + 1) // 2 :].sum()
    return float(min(1.0, 2 * tail)) if seen else 1.0


def _drawn_p(sums: Floats, seed: int, resamples: int) -> float:
    drawn = np.random.default_rng(seed)
    seen = abs(float(sums.sum()))
    as_extreme = 0
    for rows in resample_blocks(resamples, len(sums)):
        signs = drawn.integers(0, 2, size=(rows, len(sums)), dtype=np.int8) * 2.0 - 1.0
        as_extreme += int(np.count_nonzero(np.abs(signs @ sums) >= seen - _TIE * np.abs(sums).sum()))
    return (as_extreme + 1) / (resamples + 1)


def resampled_quantiles(values: Floats, share: float, seed: int, resamples: int = RESAMPLES) -> Floats:
    """A linearly interpolated quantile of samples drawn with replacement, ``[resamples]``.

    The rank of a resampled order statistic is ``floor(n U)``, ``U`` an order statistic of ``n``
    uniform numbers, which is beta distributed.
    """
    ordered, n = np.sort(values), len(values)
    drawn = np.random.default_rng(seed)
    position = (n - 1) * share
    below = int(position)
    at = drawn.beta(below + 1, n - below, size=resamples)
    lower = ordered[np.minimum((at * n).astype(int), n - 1)]
    if below == n - 1 or position == below:
        return np.asarray(lower, dtype=np.float64)
    after = at + (1 - at) * drawn.beta(1, n - below - 1, size=resamples)
    upper = ordered[np.minimum((after * n).astype(int), n - 1)]
    return np.asarray(lower + (position - below) * (upper - lower), dtype=np.float64)


def resampled_median_ratios(first: Floats, second: Floats, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Median of ``first`` over median of ``second``, pairs drawn with replacement, ``[resamples]``."""
    drawn = np.random.default_rng(seed)
    n = len(first)
    ratios = []
    for rows in resample_blocks(resamples, n):
        picks = drawn.integers(0, n, size=(rows, n), dtype=np.int32)
        ratios.append(np.median(first[picks], axis=1) / np.median(second[picks], axis=1))
    return np.concatenate(ratios)


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
    values = binary_values(correct, "correct")
    units = units_of(values, clusters, strata)
    effect = units_design_effect(values, units)
    n, right = len(values), int(values.sum())
    low, high = wilson_bounds(right / effect, n / effect, quantile(level, units.subjects, units.parts))
    drawn = bootstrap_interval(resampled_means(units, seed, resamples), level)
    return Score(right / n, n, right, Interval(float(low), float(high)), drawn, units.subjects, effect)


_INNER_LEVEL = 0.9


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first channel minus that of the second, as a fraction."""

    difference: float
    n: int
    wins: int  # questions only the first got right
    losses: int  # questions only the second got right
    interval: Interval
    inner: Interval  # at 90%, so that each end is a one-sided bound at 95%
    bootstrap: Interval
    mcnemar_p: float  # exact, questions taken as independent
    p_value: float  # mcnemar_p, or the exact sign-flip test over subjects
    subjects: int  # 0 where the questions were taken as independent
    design_effect: float

    @property
    def discordance(self) -> float:
        """The share of questions that only one of the two got right."""
        return (self.wins + self.losses) / self.n

    @property
    def detectable(self) -> float | None:
        """The smallest difference found with 80% power by a single test at 5%, see ``detectable_at``."""
        return self.detectable_at(0.05)

    def detectable_at(self, alpha: float) -> float | None:
        """The smallest difference that an exact test at level ``alpha`` finds with 80% power; None: not even 1."""
        return detectable_effect(self.n / self.design_effect, self.discordance, alpha)

    def same_within(self, margin: float) -> bool:
        """Whether two one-sided tests at 5% each show a difference smaller than ``margin``, a fraction."""
        return -margin < self.inner.low and self.inner.high < margin


def paired(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    strata: ArrayLike | None = None,
) -> PairedDifference:
    """Compares two channels question by question.

    Args:
        a: 0 or 1 per question for the first channel, ``[n]``.
        b: the same questions in the same order for the second, ``[n]``.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        seed: of the bootstrap.
        level: of the interval and the bootstrap.
        resamples: of the bootstrap.
        strata: the part of fixed size that each question belongs to, ``[n]``, or nothing where the task has none.

    Raises:
        ValueError: if the vectors differ in length, are empty, hold a NaN or anything but 0 and 1.
    """
    first, second = binary_values(a, "a"), binary_values(b, "b")
    same_length(first, second, "a and b")
    gains = first - second
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    units = units_of(gains, clusters, strata)
    effect = units_design_effect(gains, units)
    exact = mcnemar_p(wins, losses)
    return PairedDifference(
        difference=(wins - losses) / len(gains),
        n=len(gains),
        wins=wins,
        losses=losses,
        interval=_score_interval(gains, effect, quantile(level, units.subjects, units.parts)),
        inner=_score_interval(gains, effect, quantile(_INNER_LEVEL, units.subjects, units.parts)),
        bootstrap=bootstrap_interval(resampled_means(units, seed, resamples), level),
        mcnemar_p=exact,
        p_value=sign_flip_p(units.sums) if units.subjects > 1 else exact,
        subjects=units.subjects,
        design_effect=effect,
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Exact two-sided McNemar test: a fair coin for each question that only one got right."""
    if wins + losses == 0:
        return 1.0
    return sign_test(wins, losses)


def _score_interval(gains: Floats, effect: float, z: float) -> Interval:
    wins, losses = (gains > 0).sum(), (gains < 0).sum()
    return _tango_interval(float(wins / effect), float(losses / effect), len(gains) / effect, z)


@functools.lru_cache(maxsize=4096)
def _tango_interval(wins: float, losses: float, n: float, z: float) -> Interval:
    low, high = tango_bounds(wins, losses, n, z)
    return Interval(float(low), float(high))
