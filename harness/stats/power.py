"""What a comparison could have found, what a family of them allows, and how to say it.

Guarantees that the words "higher" and "lower" are only used where the interval leaves out zero.
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from harness.stats.intervals import Interval, normal_quantile
from harness.stats.vectors import Codes, Floats, finite

HIGHER, LOWER, NOT_RESOLVED = "higher", "lower", "not resolved at this n"
_STEPS = 10_000  # of a difference, from 0 to 1
_ROUNDING = 1e-9


class Effect(Protocol):
    """Anything that has an interval around a difference."""

    @property
    def interval(self) -> Interval:
        """The interval of the difference."""


def verdict(effect: Effect, margin: float | None = None) -> str:
    """Says whether the first of the two is "higher", "lower" or "not resolved at this n".

    Args:
        effect: the difference.
        margin: as a fraction; a difference that is not resolved and that two one-sided tests show to be smaller is
            "same within ... points". Only an effect that has `same_within` can be tested so.
    """
    if not effect.interval.covers(0.0):
        return HIGHER if effect.interval.low > 0 else LOWER
    same_within = getattr(effect, "same_within", None)
    if margin is not None and same_within is not None and same_within(margin):
        return f"same within {100 * margin:g} points"
    return NOT_RESOLVED


def minimum_detectable_effect(
    n: int,
    discordance: float,
    power: float = 0.8,
    level: float = 0.95,
    design_effect: float = 1.0,
) -> float:
    """The smallest paired difference of accuracies that a test finds with the given power.

    ``(z_level + z_power) * sqrt(discordance * design_effect / n)``: the normal approximation of
    McNemar's test with the variance under no difference (Connor 1987, leading term).

    Raises:
        ValueError: if ``n`` is not positive or a share is out of range.
    """
    if n <= 0 or not 0 <= discordance <= 1 or not 0 < power < 1 or design_effect <= 0:
        raise ValueError(
            f"no power for n={n}, discordance={discordance}, power={power}, design effect={design_effect}."
        )
    reach = normal_quantile(level) + float(stats.norm.ppf(power))
    return reach * math.sqrt(discordance * design_effect / n)


def mcnemar_power(n: int, wins: float, losses: float, alpha: float = 0.05) -> float:
    """How often the exact two-sided McNemar test rejects, summed over every number of discordant questions.

    Args:
        n: questions, taken as independent.
        wins: the true share that only the first gets right.
        losses: the true share that only the second gets right.
        alpha: level of the test.

    Raises:
        ValueError: if ``n`` is not positive, a share or the level is out of range.
    """
    discordant = wins + losses
    if n <= 0 or min(wins, losses) < 0 or discordant > 1 + _ROUNDING or not 0 < alpha < 1:
        raise ValueError(f"no power for n={n}, shares {wins:g} and {losses:g}, level {alpha:g}.")
    if discordant == 0:
        return 0.0
    return _power(n, min(discordant, 1.0), alpha, wins / discordant)


def detectable_effect(n: float, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest difference that the exact McNemar test finds with the given power.

    The share of discordant questions stays as seen. A difference cannot exceed it, so that a larger one is taken to
    make all of its questions discordant in its own direction.

    Args:
        n: questions; of clustered ones the effective number, rounded down.
        discordance: share of questions that only one of the two gets right.
        alpha: two-sided level of the test.
        power: how often the difference is to be found.

    Returns:
        A fraction, to four digits upwards; None where no difference at all is found so often.

    Raises:
        ValueError: if ``n`` is not positive or a share or the level is out of range.
    """
    if n <= 0 or not 0 <= discordance <= 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"no power for n={n:g}, discordance={discordance:g}, power={power:g}, level {alpha:g}.")
    whole = max(1, int(n))

    def finds(steps: int) -> bool:
        share = max(discordance, steps / _STEPS)
        return mcnemar_power(whole, (share + steps / _STEPS) / 2, (share - steps / _STEPS) / 2, alpha) >= power

    if not finds(_STEPS):
        return None
    return bisect.bisect_left(range(_STEPS), x=True, lo=1, key=finds) / _STEPS


def _likely(n: int, share: float) -> tuple[Codes, Floats]:
    """Numbers of discordant questions with their probabilities; what is left out weighs less than 1e-9."""
    centre, reach = n * share, 7 * math.sqrt(n * share * (1 - share)) + 12
    counts = np.arange(max(0, math.floor(centre - reach)), min(n, math.ceil(centre + reach)) + 1)
    ways = special.gammaln(n + 1) - special.gammaln(counts + 1) - special.gammaln(n - counts + 1)
    return counts, np.exp(ways + special.xlogy(counts, share) + special.xlog1py(n - counts, -share))


@functools.lru_cache(maxsize=64)
def _edges(n: int, alpha: float) -> Codes:
    """For 0 to ``n`` discordant questions the largest count of the rarer side that rejects; -1 where none does."""
    counts = np.arange(n + 1)
    edge = np.maximum(stats.binom.ppf(alpha / 2, counts, 0.5), 0).astype(np.int64)
    return np.asarray(np.where(special.bdtr(edge, counts, 0.5) <= alpha / 2, edge, edge - 1), dtype=np.int64)


def _power(n: int, discordant: float, alpha: float, win: float) -> float:
    counts, weights = _likely(n, discordant)
    edge = _edges(n, alpha)[counts]
    held, some = np.maximum(edge, 0), edge >= 0
    rejects = special.bdtr(held, counts, win) + special.bdtr(held, counts, 1 - win)
    return float((weights[some] * rejects[some]).sum())


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's adjusted p-values for a family of comparisons, in the order given (Holm 1979).

    Raises:
        ValueError: if there are none, or one is NaN or outside 0 to 1.
    """
    raw = finite(p_values, "p-values")
    if raw.min() < 0 or raw.max() > 1:
        raise ValueError(f"p-values run from {raw.min():g} to {raw.max():g}; allowed: 0 to 1.")
    order = np.argsort(raw, kind="stable")
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]
