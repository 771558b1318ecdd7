"""Which requests are asked together: batches of one kind and of like lengths, within a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.inference.types import Query, Request

Place = Callable[[Query], int]  # orders questions whose prompts have the same length


@dataclass
class Budget:
    """How much goes into one batch.

    Attributes:
        batch_size: requests at most.
        max_batch_tokens: padded prompt tokens at most; None for no limit.
        fitting: by channel, number of arms and kind of request: tokens of the largest part of a batch that did not
            fit the memory; a larger batch is divided before it is tried.
    """

    batch_size: int = 8
    max_batch_tokens: int | None = None
    fitting: dict[Any, int] = field(default_factory=dict)


def batches(
    lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget, place: Place | None = None
) -> Iterator[list[int]]:
    """Groups requests of one kind and of like lengths, longest first, so that a lack of memory shows at once.

    Neighbours that trade messages stay together, even where that exceeds the budget by one or two: apart, each would
    have its donor's message sent again.

    Args:
        lengths: prompt tokens of every request that can be asked, by index.
        requests: all requests.
        budget: how large batches are.
        place: orders questions of one length where neighbours trade messages; None where none do.
    """
    return join_batches(units_of(lengths, requests, place), lengths, requests, budget)


def units_of(lengths: Mapping[int, int], requests: Sequence[Request], place: Place | None) -> list[list[int]]:
    """Returns all requests in the order in which they are asked; those of one unit trade messages."""
    places = {i: 0 if place is None else place(requests[i].query) for i in lengths}
    order = sorted(lengths, key=lambda i: (requests[i].kind, -lengths[i], places[i], i))
    size = 1 if place is None else 2
    units: list[list[int]] = []
    for _, group in itertools.groupby(order, key=lambda i: requests[i].kind):
        same = list(group)
        own = [same[i : i + size] for i in range(0, len(same), size)]
        if len(own) > 1 and len(own[-1]) < size:
            own[-2:] = [own[-2] + own[-1]]
        units += own
    return units


def join_batches(
    units: Iterable[list[int]], lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget
) -> Iterator[list[int]]:
    """Joins neighbouring units to batches within the budget."""
    batch: list[int] = []
    for unit in units:
        if batch and not _joins(unit, batch, lengths, requests, budget):
            yield batch
            batch = []
        batch.extend(unit)
    if batch:
        yield batch


def split_batch(indices: list[int]) -> tuple[list[int], list[int]]:
    """Divides a batch; both parts begin with a pair that trades messages, wherever both have one."""
    middle = len(indices) // 2 // 2 * 2 if len(indices) > 3 else len(indices) // 2
    return indices[:middle], indices[middle:]


def _joins(
    unit: list[int], batch: list[int], lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget
) -> bool:
    together = len(batch) + len(unit)
    if together > budget.batch_size or requests[unit[0]].kind != requests[batch[0]].kind:
        return False
    limit = budget.max_batch_tokens
    return limit is None or lengths[batch[0]] * together <= limit


@dataclass
class Turns:
    """Deals pieces of work out in turn; every process counts all of them in the same order."""

    rank: int = 0
    world: int = 1
    dealt: int = 0

    def take(self) -> bool:
        """Counts one piece and says whether it is this process's."""
        self.dealt += 1
        return (self.dealt - 1) % self.world == self.rank
