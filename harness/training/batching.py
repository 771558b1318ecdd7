"""This process's share of every step: rows as lessons, with what was kept of their prompts.

Guarantees that a row that cannot teach anything (no answer, a prompt beyond the length) is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.training.channel import GraphChannel, Kept
from harness.training.corpus import Corpus
from harness.training.lessons import Lesson, lesson
from harness.training.order import micro_batches, step_rows
from harness.training.recipe import Recipe
from harness.training.store import Store


@dataclass(frozen=True)
class Micro:
    """One forward pass of one process: its number within the step, its useful rows and their lessons."""

    number: int
    rows: tuple[int, ...]
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class Batches:
    """Deals rows out.

    Attributes:
        recipe: sizes and seed.
        corpus: rows to train on, and behind them those held out.
        channel: lays prompts out and reads them where they are kept.
        rank: of this process among `world`.
        store: kept prompts; None computes them every time.
    """

    recipe: Recipe
    corpus: Corpus
    channel: GraphChannel
    rank: int = 0
    world: int = 1
    store: Store | None = None

    def of(self, step: int) -> list[Micro]:
        """Returns this process's micro batches of a step."""
        recipe = self.recipe
        rows = step_rows(step, len(self.corpus) - recipe.held_out_rows, recipe.global_batch, recipe.seed)
        dealt = micro_batches(rows, recipe.micro_batch, self._characters, self.rank, self.world)
        return [self._micro(number, found) for number, found in dealt]

    def first(self, rows: int) -> list[Lesson]:
        """Returns the lessons of the first rows, whichever process asks."""
        return self._lessons(range(min(rows, len(self.corpus) - self.recipe.held_out_rows)))

    def sample(self, rows: int) -> list[Lesson]:
        """Returns the lessons of some rows from the first to the last, the same whichever process asks."""
        return self._lessons(range(0, len(self.corpus), max(1, len(self.corpus) // rows)))

    def held_out(self) -> Iterator[Micro]:
        """Yields this process's share of the rows that are held out."""
        first = len(self.corpus) - self.recipe.held_out_rows
        rows = list(range(first, len(self.corpus)))[self.rank :: self.world]
        size = self.recipe.micro_batch
        return (self._micro(start, rows[start : start + size]) for start in range(0, len(rows), size))

    def kept(self, micro: Micro) -> list[Kept] | None:
        """Returns what the frozen models read from the prompts, where that is kept."""
        if self.store is None:
            return None
        found = zip(micro.rows, micro.lessons, strict=True)
        return [self._kept(self.store, row, one) for row, one in found]

    def _kept(self, store: Store, row: int, one: Lesson) -> Kept:
        return store.get(row, lambda: self.channel.keep(one))

    def _characters(self, row: int) -> int:
        return self.corpus[row].characters

    def _micro(self, number: int, rows: Sequence[int]) -> Micro:
        found = [(row, self._lesson(row)) for row in rows]
        useful = [(row, one) for row, one in found if one is not None]
        return Micro(number, tuple(row for row, _ in useful), tuple(one for _, one in useful))

    def _lessons(self, rows: Iterable[int]) -> list[Lesson]:
        return [one for one in map(self._lesson, rows) if one is not None]

    def _lesson(self, row: int) -> Lesson | None:
        models = (self.channel.answers, *(link.sharer for link in self.channel.links))
        limit = min(self.recipe.max_length, *(lm.max_length for lm in models))
        example = self.corpus[row]
        try:
            return lesson(self.channel.planner, example, limit)
        except UserError as error:
            raise UserError(f"Row {row} of the training data: {error}") from error
