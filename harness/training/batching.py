"""This process's share of every step: rows as lessons, with what was kept of their prompts.

Guarantees that a row that cannot be learned from is left out with its reason, and that one row never
ends a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.training.channel import GraphChannel, Kept
from harness.training.corpus import Corpus
from harness.training.left_out import LeftOut, Reason
from harness.training.lessons import Lesson, lesson
from harness.training.order import micro_batches, step_rows
from harness.training.recipe import Recipe
from harness.training.store import Store

_BY_TEMPLATE = frozenset({Reason.TEMPLATE, Reason.PARTS, Reason.LABELS})


@dataclass(frozen=True)
class Micro:
    """One forward pass of one process.

    Attributes:
        number: within the step.
        rows: that can be learned from.
        lessons: theirs.
        left_out: why the others cannot.
    """

    number: int
    rows: tuple[int, ...]
    lessons: tuple[Lesson, ...]
    left_out: tuple[LeftOut, ...] = ()


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
        """Returns the lessons of some rows from the first to the last, the same whichever process asks.

        Raises:
            UserError: a chat template refuses all of them, so it would refuse the rest as well.
        """
        tried = [self._lesson(row) for row in range(0, len(self.corpus), max(1, len(self.corpus) // rows))]
        refusals = [one for one in tried if isinstance(one, LeftOut) and one.reason in _BY_TEMPLATE]
        if tried and len(refusals) == len(tried):
            raise UserError(f"A chat template refuses all of {len(tried)} rows that were tried. {refusals[0]}")
        return [one for one in tried if isinstance(one, Lesson)]

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
        try:
            return self.corpus[row].characters
        except LeftOut:
            return 0

    def _micro(self, number: int, rows: Sequence[int]) -> Micro:
        tried = [(row, self._lesson(row)) for row in rows]
        useful = [(row, one) for row, one in tried if isinstance(one, Lesson)]
        left_out = tuple(one for _, one in tried if isinstance(one, LeftOut))
        return Micro(number, tuple(row for row, _ in useful), tuple(one for _, one in useful), left_out)

    def _lessons(self, rows: Iterable[int]) -> list[Lesson]:
        return [one for one in map(self._lesson, rows) if isinstance(one, Lesson)]

    def _lesson(self, row: int) -> Lesson | LeftOut:
        models = (self.channel.answers, *(link.sharer for link in self.channel.links))
        limit = min(self.recipe.max_length, *(lm.max_length for lm in models))
        try:
            example = self.corpus[row]
        except LeftOut as error:
            return error
        try:
            return lesson(self.channel.planner, example, limit, whole=self.recipe.as_released)
        except LeftOut as error:
            return LeftOut(error.reason, f"Row {row} of the training data: {error}")
