"""Whose message a question gets in place of its own, fixed before anything runs.

Guarantees that a donor depends on the questions of a task, their lengths and the seed alone: not on batches, on what
was answered before, on who else answers, or on which batch had to be halved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

# Names the rule in a run's identity: a run that began with other donors is not gone on with.
DONORS = "neighbours by length, equal lengths by the seed"


@dataclass(frozen=True)
class Donors:
    """The donors of a task's questions.

    Attributes:
        lengths: prompt tokens of every question that can be asked, by index.
        units: neighbours in order of length that trade messages, two or three each.
    """

    lengths: Mapping[int, int]
    units: Sequence[Sequence[int]]

    @cached_property
    def first(self) -> dict[int, int]:
        """The donor of every question that has a neighbour: in a unit each takes the message of the next one."""
        return {
            own: unit[(place + 1) % len(unit)] for unit in self.units if len(unit) > 1 for place, own in enumerate(unit)
        }

    def of(self, index: int) -> Iterator[int]:
        """Every possible donor of a question: its neighbour, then the others by how near their length is."""
        order = {one: place for place, one in enumerate(one for unit in self.units for one in unit)}
        neighbour = self.first.get(index)
        others = [one for one in order if one not in (index, neighbour)]
        others.sort(key=lambda one: (abs(self.lengths[one] - self.lengths[index]), abs(order[one] - order[index]), one))
        if neighbour is not None:
            yield neighbour
        yield from others
