"""Compares seconds that were measured on the same questions on both sides.

Questions differ in length far more than two builds do, and on raw seconds that spread would drown a slowdown of
10%. Each question is therefore moved to its own centre first. The ratio of medians is then the one of seconds
relative to their question; the Mann-Whitney test becomes the one on aligned ranks (Hodges and Lehmann, 1962), with
the variance over permutations within questions, so its level holds. With a single question both are the plain ones
(the test by normal approximation, with ties, without continuity correction).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Seconds = tuple[list[float], list[float]]
Blocks = Mapping[Any, Seconds]  # question -> (seconds of the baseline, seconds of the run), neither side empty


def aligned_ratio(blocks: Blocks) -> float:
    """Returns the ratio of medians, run over baseline, of seconds relative to their question."""
    values, is_head = _aligned(blocks)
    return math.exp(float(np.median(values[is_head]) - np.median(values[~is_head])))


def aligned_rank_p(blocks: Blocks) -> float:
    """Returns the two-sided p-value that baseline and run come from one distribution."""
    values, is_head = _aligned(blocks)
    ranks = rankdata(values)
    excess, variance, start = 0.0, 0.0, 0
    for base, head in blocks.values():
        size = len(base) + len(head)
        inside = slice(start, start + size)
        deviations = ranks[inside] - ranks[inside].mean()
        excess += float(deviations[is_head[inside]].sum())
        variance += len(base) * len(head) / (size * (size - 1)) * float((deviations**2).sum())
        start += size
    return 1.0 if variance == 0 else float(2 * norm.sf(abs(excess) / math.sqrt(variance)))


def _aligned(blocks: Blocks) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns log seconds less their question's mean, block after block, and which of them are the run's."""
    logs = [np.log(np.array([*base, *head], dtype=float)) for base, head in blocks.values()]
    sides = [np.arange(len(base) + len(head)) >= len(base) for base, head in blocks.values()]
    return np.concatenate([values - values.mean() for values in logs]), np.concatenate(sides)
