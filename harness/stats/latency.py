"""Latency of channels from raw seconds: quantiles, interleaved pairs, an unpaired test.

Guarantees that only raw values enter, and that an interval is given only where the sample can bound
the quantile: a p99 needs 368 values at 95%, a p90 needs 36, a median 6. Means are left out on
purpose, one slow question decides them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.intervals import Floats, Interval, Labels, finite_values, same_length
from harness.stats.paired import RESAMPLES, bootstrap_interval, resampled_median_ratios, resampled_quantiles


@dataclass(frozen=True)
class Estimate:
    """A figure and its seeded bootstrap interval; None where there are too few values for one."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Percentiles:
    """Quantiles of one list of values, in the unit of the values."""

    n: int
    median: Estimate
    p90: Estimate
    p99: Estimate


@dataclass(frozen=True)
class PairedRatio:
    """How many times as long the first takes on the same questions, from interleaved pairs.

    Attributes:
        n: questions, each counted once however often it was timed.
    """

    n: int
    ratio_of_medians: Estimate
    median_of_ratios: Estimate


@dataclass(frozen=True)
class MannWhitney:
    """An unpaired rank test; ``superiority`` is P(a > b) + P(a = b) / 2."""

    p_value: float
    superiority: float


def percentiles(values: ArrayLike, seed: int = 0, level: float = 0.95, resamples: int = RESAMPLES) -> Percentiles:
    """Summarises raw values such as seconds.

    Raises:
        ValueError: if there are none or any is NaN.
    """
    raw = finite_values(values)
    median, p90, p99 = (_quantile(raw, share, seed, level, resamples) for share in (0.5, 0.9, 0.99))
    return Percentiles(len(raw), median, p90, p99)


def paired_ratio(
    a_s: ArrayLike,
    b_s: ArrayLike,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2_000,
    questions: ArrayLike | None = None,
) -> PairedRatio:
    """Compares the seconds of two channels on the same questions, measured in turns.

    The question is the unit: rounds of one question are read as their median first, since they say little of others.

    Args:
        a_s: seconds of the first channel, ``[pairs]``.
        b_s: seconds of the second next to it, ``[pairs]``.
        seed: of the bootstrap.
        level: of the intervals.
        resamples: of the bootstrap.
        questions: the question of each pair, ``[pairs]``; None where every pair is a question of its own.

    Raises:
        ValueError: if the lengths differ, there are none, or any is NaN or not above zero.
    """
    first, second = _seconds(a_s, "a_s"), _seconds(b_s, "b_s")
    same_length(first, second, "a_s and b_s")
    if questions is not None:
        names = np.asarray(questions)
        same_length(first, names, "questions")
        first, second = (_medians(seconds, names) for seconds in (first, second))
    medians = float(np.median(first) / np.median(second))
    draws = resampled_median_ratios(first, second, seed, resamples)
    interval = bootstrap_interval(draws, level) if _bounds(0.5, len(first), level) else None
    ratios = _quantile(first / second, 0.5, seed, level, resamples)
    return PairedRatio(len(first), Estimate(medians, interval), ratios)


def mann_whitney(a: ArrayLike, b: ArrayLike) -> MannWhitney:
    """Tests two unpaired lists of values for a shift (two-sided Mann-Whitney U).

    Raises:
        ValueError: if either is empty or holds a NaN.
    """
    first, second = finite_values(a, "a"), finite_values(b, "b")
    from scipy.stats import mannwhitneyu

    result = mannwhitneyu(first, second, alternative="two-sided")
    return MannWhitney(float(result.pvalue), float(result.statistic) / (len(first) * len(second)))


def tpot_s(latency_s: float, ttft_s: float, tokens_out: int) -> float | None:
    """Seconds per output token after the first, or None below two tokens, where it is undefined.

    Raises:
        ValueError: if a time is NaN or the first token comes after the last.
    """
    if not (math.isfinite(latency_s) and 0 <= ttft_s <= latency_s):
        raise ValueError(f"latency {latency_s} s and time to first token {ttft_s} s do not fit together.")
    if tokens_out < 2:
        return None
    return (latency_s - ttft_s) / (tokens_out - 1)


def _medians(seconds: Floats, names: Labels) -> Floats:
    """The median of every question's seconds, questions by name."""
    distinct, codes = np.unique(names.astype(str), return_inverse=True)
    codes = codes.reshape(-1)
    return np.array([float(np.median(seconds[codes == code])) for code in range(len(distinct))])


def _seconds(values: ArrayLike, what: str) -> Floats:
    raw = finite_values(values, what)
    if raw.min() <= 0:
        raise ValueError(f"{what}: {np.count_nonzero(raw <= 0)} of {len(raw)} are not above zero seconds.")
    return raw


def _quantile(values: Floats, share: float, seed: int, level: float, resamples: int) -> Estimate:
    value = float(np.quantile(values, share))
    if not _bounds(share, len(values), level):
        return Estimate(value, None)
    return Estimate(value, bootstrap_interval(resampled_quantiles(values, share, seed, resamples), level))


def _bounds(share: float, n: int, level: float) -> bool:
    """Whether all ``n`` values lie on one side of the true quantile less often than the interval may miss."""
    return bool(max(share, 1 - share) ** n <= (1 - level) / 2)
