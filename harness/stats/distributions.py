"""The few distributions that intervals and tests need, from `scipy.special` alone.

`scipy.stats` has them all, but its import alone is a good part of the CPU time of a run of few questions. What is not
here (tests of ranks) is imported from it where it is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def t_ppf(p: float, freedom: float) -> float:
    """Returns the quantile of Student's t with so many degrees of freedom."""
    return float(special.stdtrit(freedom, p))


def t_tails(statistic: float, freedom: float) -> float:
    """Returns the two-sided p-value of Student's t with so many degrees of freedom."""
    return float(2 * special.stdtr(freedom, -abs(statistic)))


def fair_ppf(p: float, n: ArrayLike) -> NDArray[np.float64]:
    """Returns the quantile of the heads in `n` throws of a fair coin: the least number with a cdf of at least `p`."""
    above = np.ceil(np.nan_to_num(special.bdtrik(p, n, 0.5)))  # no throw: not a number
    below = np.maximum(above - 1, 0)
    return np.asarray(np.where(special.bdtr(below, n, 0.5) >= p, below, above))


def sign_test(wins: int, losses: int) -> float:
    """Returns the exact two-sided p-value of a sign test, or McNemar's: are wins and losses equally likely?"""
    tail = float(special.bdtr(min(wins, losses), wins + losses, 0.5))
    return 1.0 if wins == losses else min(1.0, 2 * tail)
