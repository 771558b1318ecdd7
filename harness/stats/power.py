"""What a comparison could have found, what a family of them allows, and how to say it.

Guarantees that the words "higher" and "lower" are only used where the interval leaves out zero.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.intervals import Interval, normal_quantile
from harness.stats.vectors import finite

NOT_RESOLVED = "not resolved at this n"


class Effect(Protocol):
    """Anything that has an interval around a difference."""

    @property
    def interval(self) -> Interval:
        """The interval of the difference."""


def verdict(effect: Effect) -> str:
    """Says whether the first of the two is "higher", "lower" or "not resolved at this n"."""
    if effect.interval.covers(0.0):
        return NOT_RESOLVED
    return "higher" if effect.interval.low > 0 else "lower"


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
