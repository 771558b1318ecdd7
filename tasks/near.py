"""Questions that are the same, or nearly so, as one of a given set.

Guarantees that a question with the same words in any order, under any id and with its options in any order, is
recognised, and so is one that differs in a few words.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from tasks.documents import Document

NEAR = 0.8  # cosine of word counts from which two questions count as one
_WORD = re.compile(r"\w+")


class Questions:
    """A set of questions, each as the word counts of its text and its options."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._exact = {_normal(document) for document in documents}
        self._weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for word, weight in _unit(document).items():
                self._weights[word].append((number, weight))

    def contain(self, document: Document) -> bool:
        """Whether a question is one of the set, up to case and the order of its options, or nearly so."""
        return _normal(document) in self._exact or self.nearest(document) >= NEAR

    def nearest(self, document: Document) -> float:
        """Returns the largest cosine between the word counts of a question and of one of the set, 0 to 1."""
        cosines: dict[int, float] = defaultdict(float)
        for word, weight in _unit(document).items():
            for number, other in self._weights.get(word, ()):
                cosines[number] += weight * other
        return max(cosines.values(), default=0.0)


def _normal(document: Document) -> tuple[str, frozenset[str]]:
    choices = frozenset(choice.strip().casefold() for choice in document["choices"])
    return document["question"].strip().casefold(), choices


def _unit(document: Document) -> dict[str, float]:
    """Word counts scaled to length 1; texts without any word have none."""
    text = " ".join((document["question"], *document["choices"])).casefold()
    counts = Counter(_WORD.findall(text))
    length = math.sqrt(sum(count * count for count in counts.values()))
    return {word: count / length for word, count in counts.items()}
