"""Turns what callers hold into checked arrays.

Guarantees that no statistic is ever computed over a NaN, over unequal lengths or over nothing: each
is a ``ValueError`` that counts what was seen. Callers leave failed questions out and count them
beside the score; a failure is never read as a zero here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Labels = NDArray[Any]
Codes = NDArray[np.int64]


def finite(values: ArrayLike, what: str = "values") -> Floats:
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


def binary(values: ArrayLike, what: str = "values") -> Floats:
    """Returns the values as floats that are all 0 or 1, ``[n]``.

    Raises:
        ValueError: as ``finite``, or if any value is neither right nor wrong.
    """
    array = finite(values, what)
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
