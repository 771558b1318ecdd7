"""Seeded resampling that stays small and quick at thousands of questions.

Guarantees the same numbers for the same seed. Means are resampled by how often each distinct unit
is drawn, and quantiles by the known law of their order statistics: both have exactly the
distribution of drawing all ``n`` values anew, without drawing them. Work that must draw them goes
in blocks of bounded memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from harness.stats.clusters import Units
from harness.stats.intervals import Interval
from harness.stats.vectors import Floats, at_level

RESAMPLES = 10_000
_BLOCK_VALUES = 2_000_000
_TIE = 1e-12  # relative difference below which two sums are equal


def blocks(resamples: int, width: int) -> Iterator[int]:
    """Yields numbers of rows that add up to ``resamples``, each block at most 2M values of ``width``."""
    rows = max(1, _BLOCK_VALUES // max(width, 1))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def spread(draws: Floats, level: float) -> Interval:
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
        _means(drawn.multinomial(total, counts / total, size=rows), pairs) for rows in blocks(resamples, len(pairs))
    ]
    return np.concatenate(means)


def _means(times_drawn: np.ndarray[tuple[int, ...], np.dtype[np.int64]], pairs: Floats) -> Floats:
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


def _exact_p(sizes: np.ndarray[tuple[int, ...], np.dtype[np.int64]], seen: int) -> float:
    """Convolves the laws of the single signed sums; only positive terms are added, so that small tails are exact."""
    law = np.ones(1)  # of the part of all sizes whose sign is plus
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
    for rows in blocks(resamples, len(sums)):
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
    for rows in blocks(resamples, n):
        picks = drawn.integers(0, n, size=(rows, n), dtype=np.int32)
        ratios.append(np.median(first[picks], axis=1) / np.median(second[picks], axis=1))
    return np.concatenate(ratios)
