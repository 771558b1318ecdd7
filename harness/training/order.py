"""Which rows form which step, and which random numbers they meet.

Guarantees that both are functions of the seed and the step alone: nothing has to be saved to resume, and the
number of processes does not change what is computed, only where.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import torch


def derived_seed(seed: int, *purpose: object) -> int:
    """Returns a seed of its own for each purpose."""
    text = "-".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def step_rows(step: int, rows: int, batch: int, seed: int) -> list[int]:
    """Returns the rows of one step: every epoch is a new permutation, and steps run on across their seams."""
    places = range(step * batch, (step + 1) * batch)
    return [_permutation(place // rows, rows, seed)[place % rows] for place in places]


def micro_batches(
    rows: list[int], size: int, length: Callable[[int], int], rank: int, world: int
) -> list[tuple[int, list[int]]]:
    """Deals a step out in batches of like lengths.

    Args:
        rows: of the step.
        size: of a micro batch.
        length: of a row, in any unit.
        rank: of this process.
        world: number of processes.

    Returns:
        This process's batches, each with its number within the step.
    """
    order = sorted(rows, key=lambda row: (length(row), row))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return list(enumerate(batches))[rank::world]


@functools.lru_cache(maxsize=4)
def _permutation(epoch: int, rows: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    order: list[int] = torch.randperm(rows, generator=generator).tolist()
    return order
