"""Score intervals for one proportion and for the difference of two paired ones.

Guarantees bounds inside [0, 1] and [-1, 1] and a width above zero even when every answer is the
same. Both take fractional counts, so that a clustered sample can enter as a smaller independent
one; see ``clusters``. The price is that neither interval is centred on the estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.vectors import Floats, at_level

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
    return float(stats.norm.ppf((1 + at_level(level)) / 2))


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
    one = np.ones_like(estimate)
    low = _where_equals(lambda delta: tango_score(won, lost, total, delta), z, -one, estimate)
    high = _where_equals(lambda delta: tango_score(won, lost, total, delta), -z, estimate, one)
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


def _where_equals(falling: Callable[[Floats], Floats], target: float, low: Floats, high: Floats) -> Floats:
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = falling(middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2, dtype=np.float64)
