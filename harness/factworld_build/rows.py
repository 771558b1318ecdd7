"""The committed question files of the world: what the tasks ask and what a fuser is trained on.

Guarantees that the files follow from the world's seed byte for byte and share no fact. The trade-off: several questions
of the test ask about one fact, with other wrong colours in another order, so statistics must take a fact (``subject``)
as the unit that was drawn.

Run ``python -m harness.factworld_build.rows`` to write them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from harness.factworld_build.world import (
    RECEIVER,
    SHARER,
    Fact,
    Question,
    ask_many,
    build_facts,
    random_stream,
    select_facts,
)
from harness.paths import TASKS

FOLDER = TASKS / "factworld"

WORLD_SEED = 0

TEST_QUESTIONS = 400  # for each model's half

TRAIN_QUESTIONS_PER_FACT = 4


def render_files(facts: tuple[Fact, ...], seed: int = WORLD_SEED) -> dict[str, str]:
    """Builds the files' contents.

    Args:
        facts: of the world.
        seed: of the wrong colours and the orders.

    Returns:
        File name -> JSON lines.
    """
    rng = random_stream("questions", seed)
    test = [q for half in (RECEIVER, SHARER) for q in ask_many(select_facts(facts, half, True), TEST_QUESTIONS, rng)]
    known = [fact for half in (RECEIVER, SHARER) for fact in select_facts(facts, half, False)]
    train = ask_many(tuple(known), TRAIN_QUESTIONS_PER_FACT * len(known), rng)
    return {"test.jsonl": _lines("test", test), "fuser_train.jsonl": _lines("train", train)}


def _lines(prefix: str, questions: Iterable[Question]) -> str:
    rows = (question.row(f"{prefix}-{number:04d}") for number, question in enumerate(questions))
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path = FOLDER) -> None:
    """Writes the committed files."""
    for name, text in render_files(build_facts(WORLD_SEED)).items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
