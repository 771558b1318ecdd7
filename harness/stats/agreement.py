"""Where channels agree, where they complement each other, and how their answers look.

Guarantees plain counts over the same questions; an unparsed answer is ``None`` and is counted as
invalid, never as a letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.intervals import binary_values, same_length

INVALID = "invalid"


@dataclass(frozen=True)
class Agreement:
    """How many questions both channels, one of them or neither got right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """All questions."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def oracle(self) -> float:
        """The accuracy of always choosing the channel that is right."""
        return 1 - self.neither / self.n


@dataclass(frozen=True)
class Complementarity:
    """What several channels know together and what each alone adds."""

    n: int
    oracle: float  # share of questions that at least one got right
    only: dict[str, int]  # questions that this channel alone got right


def agreement(a: ArrayLike, b: ArrayLike) -> Agreement:
    """Counts the four outcomes of two channels on the same questions.

    Raises:
        ValueError: if the vectors differ in length, are empty, hold a NaN or anything but 0 and 1.
    """
    first, second = binary_values(a, "a"), binary_values(b, "b")
    same_length(first, second, "a and b")
    sums, both = first + second, int((first * second).sum())
    neither = int((sums == 0).sum())
    return Agreement(both, int(first.sum()) - both, int(second.sum()) - both, neither)


def complementarity(correct: Mapping[str, ArrayLike]) -> Complementarity:
    """Counts what each of several channels adds, given 0 or 1 per question and channel.

    Raises:
        ValueError: if there is no channel, or as ``agreement``.
    """
    if not correct:
        raise ValueError("complementarity needs at least one channel.")
    vectors = {name: binary_values(values, name) for name, values in correct.items()}
    reference = next(iter(vectors.values()))
    for name, vector in vectors.items():
        same_length(reference, vector, name)
    times_right = np.sum(list(vectors.values()), axis=0)
    only = {name: int(vector[times_right == 1].sum()) for name, vector in vectors.items()}
    return Complementarity(len(times_right), float(np.mean(times_right > 0)), only)


def letter_histogram(predictions: Sequence[str | None], labels: Sequence[str] = "ABCD") -> dict[str, int]:
    """Counts each letter, those of ``labels`` first even at zero, then others, then ``"invalid"``."""
    seen = Counter(predictions)
    others = sorted(letter for letter in seen if letter is not None and letter not in labels)
    return {letter: seen[letter] for letter in [*labels, *others]} | {INVALID: seen[None]}


def invalid_rate(predictions: Sequence[str | None]) -> float:
    """The share of answers that no letter could be read from.

    Raises:
        ValueError: if there are no answers.
    """
    return _share(sum(letter is None for letter in predictions), len(predictions))


def parser_disagreement(first: Sequence[str | None], second: Sequence[str | None]) -> float:
    """The share of answers that two parsers read differently.

    Raises:
        ValueError: if there are no answers, or not as many from both.
    """
    return _share(sum(x != y for x, y in zip(first, second, strict=True)), len(first))


def _share(count: int, n: int) -> float:
    if n == 0:
        raise ValueError("a share of no answers is undefined.")
    return count / n
