"""Training chats out of a benchmark's other splits: the task's own wording and the answer that it asks for.

Guarantees that options are shuffled by the seed and the question's id alone, so that no letter is favoured and the same
command writes the same bytes. A benchmark's tested split is refused, and its questions are left out where they stand
in another split as well, word for word or nearly so (see `tasks.near`).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UserError, ended, suggest
from harness.records.files import write_atomic
from tasks.benchmarks import BENCHMARKS
from tasks.documents import Document, benchmark_documents
from tasks.near import Questions
from tasks.prompts import paper_prompt

logger = logging.getLogger(__name__)

ANSWER = "The correct answer is {key}"


def chats(names: Sequence[str], split: str, seed: int | None) -> list[dict[str, Any]]:
    """Reads a split of benchmarks without subjects as chats of one question and its answer.

    Args:
        names: in `tasks.benchmarks.BENCHMARKS`.
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


def shuffled(document: Document, seed: int) -> Document:
    """Puts the options in another order; the labels stay where they are and the key moves with its option."""
    order = list(range(len(document["choices"])))
    random.Random(f"{seed}/{document['id']}").shuffle(order)  # noqa: S311 - no secret
    key = document["labels"][order.index(document["labels"].index(document["key"]))]
    return {**document, "choices": [document["choices"][place] for place in order], "key": key}


def _documents(name: str, split: str) -> list[Document]:
    if name not in BENCHMARKS:
        raise UserError(f"Unknown benchmark {name!r}; allowed: {', '.join(BENCHMARKS)}.{suggest(name, BENCHMARKS)}")
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
    asked = document if seed is None else shuffled(document, seed)
    turns = [("user", paper_prompt(asked, released_sentence)), ("assistant", ANSWER.format(key=asked["key"]))]
    return {"id": document["id"], "messages": [{"role": role, "content": content} for role, content in turns]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a file of JSON lines for `run_eval.py train --data`.

    Raises:
        UserError: see `chats`.
        RunError: the file cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m tasks.lessons", description=__doc__.split("\n")[0])
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
