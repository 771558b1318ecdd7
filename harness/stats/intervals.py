"""Checked inputs, score intervals, and the power of a comparison.

No statistic is computed over a NaN, over unequal lengths or over nothing: each is a ``ValueError`` that counts what was
seen. Callers leave failed questions out and count them beside the score; a failure is never read as a zero here.

The score intervals, for one proportion and for the difference of two paired ones, have bounds inside [0, 1] and [-1, 1]
and a width above zero even when every answer is the same. Both take fractional counts, so that a clustered sample can
enter as a smaller independent one, see `harness.stats.paired`. The price is that neither is centred on the estimate.
The words "higher" and "lower" are used only where the interval leaves out zero.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.stats.distributions import fair_ppf

Floats = NDArray[np.float64]

Labels = NDArray[Any]

Codes = NDArray[np.int64]


def finite_values(values: ArrayLike, what: str = "values") -> Floats:
    """Returns the values as floats, ``[n]``.

    Raises:
        ValueError: if there are none, if they are not one-dimensional or if any is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what}: need a non-empty list of numbers, got shape {array.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{what}: {bad} of {array.size} are NaN or infinite; count them as errors and leave them out.")
    return array


def binary_values(values: ArrayLike, what: str = "values") -> Floats:
    """Returns the values as floats that are all 0 or 1, ``[n]``.

    Raises:
        ValueError: as ``finite_values``, or if any value is neither right nor wrong.
    """
    array = finite_values(values, what)
    odd = array[(array != 0) & (array != 1)]
    if odd.size:
        raise ValueError(f"{what}: {odd.size} of {array.size} are neither 0 nor 1 (first: {odd[0]:g}).")
    return array


def same_length(first: Floats, second: Floats | Labels, what: str) -> None:
    """Refuses vectors that cannot belong to the same questions.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{what}: {len(first)} values against {len(second)}; pair them by question first.")


def at_level(level: float) -> float:
    """Returns the level of confidence, checked.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level:g} is not between 0 and 1.")
    return level


_BISECTIONS = 60  # halves an interval of length 2 to below one unit in the last place


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Tells whether the value lies in the interval."""
        return self.low <= value <= self.high


def normal_quantile(level: float) -> float:
    """Returns the two-sided quantile of the standard normal distribution (1.96 at 0.95)."""
    return float(special.ndtri((1 + at_level(level)) / 2))


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for one proportion (Wilson 1927).

    Raises:
        ValueError: if ``n`` is not positive or ``successes`` is not within 0 and ``n``.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} right of {n}: an accuracy needs n > 0 and 0 <= right <= n.")
    low, high = wilson_bounds(successes, n, normal_quantile(level))
    return Interval(float(low), float(high))


def wilson_bounds(successes: ArrayLike, n: ArrayLike, z: float) -> tuple[Floats, Floats]:
    """Wilson's bounds, elementwise over arrays of any one shape; counts may be fractional."""
    right, total = np.asarray(successes, float), np.asarray(n, float)
    share = right / total
    shrink = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low = np.where(right <= 0, 0.0, np.maximum(centre - half, 0.0))
    high = np.where(right >= total, 1.0, np.minimum(centre + half, 1.0))
    return low, high


def tango_bounds(wins: ArrayLike, losses: ArrayLike, n: ArrayLike, z: float) -> tuple[Floats, Floats]:
    """Tango's score bounds for a difference of paired proportions (Tango 1998, section 3).

    Elementwise over arrays of any one shape; counts may be fractional. The bounds are where the
    score statistic of the constrained likelihood equals plus and minus ``z``, found by bisection
    since the statistic falls as the difference grows.
    """
    won, lost, total = (np.asarray(x, float) for x in np.broadcast_arrays(wins, losses, n))
    estimate = (won - lost) / total
    one, width = np.ones_like(estimate), np.broadcast_to(np.asarray(z, float), estimate.shape)
    low, high = _where_equals(
        lambda delta: tango_score(won, lost, total, delta),
        np.stack([width, -width]),
        np.stack([-one, estimate]),
        np.stack([estimate, one]),
    )
    return low, high


def tango_score(wins: Floats, losses: Floats, n: Floats, delta: Floats) -> Floats:
    """Tango's standardised distance between the observed difference and ``delta``.

    At ``delta = 0`` it is McNemar's statistic without correction, ``(b - c) / sqrt(b + c)``.
    """
    loss_share = _constrained_loss_share(wins, losses, n, delta)
    variance = n * (2 * loss_share + delta * (1 - delta))
    distance = wins - losses - n * delta
    root = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    return np.asarray(distance / root, dtype=np.float64)


def _constrained_loss_share(wins: Floats, losses: Floats, n: Floats, delta: Floats) -> Floats:
    """The most likely share of losses given that wins exceed losses by ``delta`` of all."""
    linear = (2 * n - wins + losses) * delta - wins - losses
    constant = -losses * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    # the textbook root cancels to noise where the linear term is positive
    stable = -2 * constant / np.where(linear > 0, linear + root, 1.0)
    return np.where(linear > 0, stable, (root - linear) / (4 * n))


def _where_equals(falling: Callable[[Floats], Floats], target: Floats, low: Floats, high: Floats) -> Floats:
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = falling(middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2, dtype=np.float64)


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
    reach = normal_quantile(level) + float(special.ndtri(power))
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


def questions_needed(difference: float, discordance: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many questions the exact McNemar test needs to find a difference with the given power.

    Args:
        difference: of the two accuracies, a fraction above 0.
        discordance: share of questions that only one of the two gets right, taken as no less than the difference.
        alpha: two-sided level of the test.
        power: how often the difference is to be found.

    Raises:
        ValueError: if the difference, a share or the level is out of range.
    """
    if not 0 < difference <= 1:
        raise ValueError(f"no number of questions for a difference of {difference:g}.")
    share = max(discordance, difference)
    rough = 2 * math.ceil((normal_quantile(1 - alpha) + float(special.ndtri(power))) ** 2 * share / difference**2) + 50

    def finds(n: int) -> bool:
        return mcnemar_power(n, (share + difference) / 2, (share - difference) / 2, alpha) >= power

    return bisect.bisect_left(range(rough), x=True, lo=1, key=finds)


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
    edge = np.maximum(fair_ppf(alpha / 2, counts), 0).astype(np.int64)
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
    raw = finite_values(p_values, "p-values")
    if raw.min() < 0 or raw.max() > 1:
        raise ValueError(f"p-values run from {raw.min():g} to {raw.max():g}; allowed: 0 to 1.")
    order = np.argsort(raw, kind="stable")
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]
