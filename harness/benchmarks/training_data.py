"""Training chats from a benchmark's other splits, without questions that are tested.

A chat has the task's own wording and the answer that it asks for. Options are shuffled by the seed and the question's
id alone, so no letter is favoured and the same command writes the same bytes.

A benchmark's tested split is refused, and its questions are left out where they occur in another split as well. A
question counts as the same if it has the same words in any order, under any id and with its options in any order, or
differs in a few words.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.documents import Document, benchmark_documents
from harness.benchmarks.lm_eval_functions import paper_prompt
from harness.errors import UserError, ended, unknown
from harness.records.files import write_atomic

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


logger = logging.getLogger(__name__)


ANSWER = "The correct answer is {key}"


def chats(names: Sequence[str], split: str, seed: int | None) -> list[dict[str, Any]]:
    """Reads a split of benchmarks without subjects as chats of one question and its answer.

    Args:
        names: in `harness.benchmarks.definitions.BENCHMARKS`.
        split: any but the one that is tested.
        seed: of the order of the options; None leaves them as they are.

    Raises:
        UserError: a name is unknown or has subjects, the split is the tested one, or its data is missing or malformed.
    """
    return [
        _chat(document, seed, BENCHMARKS[name].released_sentence)
        for name in names
        for document in _documents(name, split)
    ]


def shuffle_options(document: Document, seed: int) -> Document:
    """Puts the options in another order; the labels stay where they are and the key moves with its option."""
    order = list(range(len(document["choices"])))
    random.Random(f"{seed}/{document['id']}").shuffle(order)  # noqa: S311 - no secret
    key = document["labels"][order.index(document["labels"].index(document["key"]))]
    return {**document, "choices": [document["choices"][place] for place in order], "key": key}


def _documents(name: str, split: str) -> list[Document]:
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    benchmark = BENCHMARKS[name]
    if split == benchmark.split or benchmark.subjects:
        what = f"split {split!r} is the one that is tested" if split == benchmark.split else "it has one set a subject"
        raise UserError(f"{name} cannot be trained on: {what}; choose another split or benchmark.")
    tested = Questions(benchmark_documents(benchmark, benchmark.config))
    documents = benchmark_documents(replace(benchmark, split=split), benchmark.config)
    allowed = [document for document in documents if not tested.contain(document)]
    if len(allowed) < len(documents):
        logger.warning(
            "%s: %d of %d questions in split %r are tested as well, word for word or nearly so, and left out.",
            *(name, len(documents) - len(allowed), len(documents), split),
        )
    return allowed


def _chat(document: Document, seed: int | None, released_sentence: bool) -> dict[str, Any]:
    asked = document if seed is None else shuffle_options(document, seed)
    turns = [("user", paper_prompt(asked, released_sentence)), ("assistant", ANSWER.format(key=asked["key"]))]
    return {"id": document["id"], "messages": [{"role": role, "content": content} for role, content in turns]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a file of JSON lines for `run_eval.py train --data`.

    Raises:
        UserError: see `chats`.
        RunError: the file cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m harness.benchmarks.training_data", description=__doc__.split("\n")[0]
    )
    parser.add_argument("output", type=Path, help="file of JSON lines to write")
    parser.add_argument("benchmarks", nargs="+", help=", ".join(n for n, b in BENCHMARKS.items() if not b.subjects))
    parser.add_argument("--splits", nargs="+", default=["train"], help="one after the other")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the options")
    options = parser.parse_args(arguments)
    rows = [row for split in options.splits for row in chats(options.benchmarks, split, options.seed)]
    write_atomic(options.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} chats in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
