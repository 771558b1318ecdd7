"""The committed questions of the relay world: what its tasks ask.

Guarantees that the file follows from the world's seed byte for byte, that it asks about held-out names alone, and that
each letter is right equally often. The trade-off: several questions ask about one name, and several about one fact, so
statistics must take `subject` as the unit that was drawn: the name, or the fact where facts are the test.

Run ``python -m harness.relay_build.rows`` to write it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.factworld_build.world import LABELS
from harness.paths import TASKS
from harness.relay_build.questions import FORMS, ONE, Question, draw_question, letter_options
from harness.relay_build.world import PLACE, Fact, World, build_world, random_stream

FOLDER = TASKS / "relay"
WORLD_SEED = 48
TAUGHT, UNTAUGHT, PLACES = "taught", "untaught", "places"
ROUNDS = {TAUGHT: 3, UNTAUGHT: 10, PLACES: 3}
"""How often each fact of a split is asked about, in each form."""


def facts_of(world: World, split: str) -> list[Fact]:
    """What a split asks about: taught facts, untaught facts, or the places themselves."""
    if split == PLACES:
        return [(place, PLACE) for place in world.places]
    return world.taught if split == TAUGHT else sorted(world.untaught)


def exam_questions(world: World, form: str, split: str, rounds: int | None = None) -> list[Question]:
    """The questions of a split, about held-out names, each letter right equally often.

    Args:
        world: of the questions.
        form: `one` or `crowd`.
        split: `taught`, `untaught` or `places`.
        rounds: how often each fact is asked about; as committed by default.
    """
    rng = random_stream(f"exam-{form}-{split}", WORLD_SEED)
    facts = facts_of(world, split) * (rounds or ROUNDS[split])
    keys = [index % len(LABELS) for index in range(len(facts))]
    rng.shuffle(keys)
    names = world.names_by_place(held_out=True)
    return [draw_question(world, form, fact, names, rng).keyed(key) for fact, key in zip(facts, keys, strict=True)]


def render_file(world: World) -> str:
    """The file's content: every split in every form, one JSON document a line."""
    documents = (document for split in ROUNDS for form in FORMS for document in _documents(world, form, split))
    return "".join(json.dumps(document) + "\n" for document in documents)


def _documents(world: World, form: str, split: str) -> Iterator[dict[str, Any]]:
    for number, question in enumerate(exam_questions(world, form, split)):
        yield {
            "id": f"{form}-{split}-{number:03d}",
            "question": question.stem(),
            "choices": list(question.choices),
            "labels": list(LABELS),
            "key": LABELS[question.key],
            "subject": question.name if split != UNTAUGHT else "-".join(question.fact),
            "category": question.attribute,
            "form": form,
            "split": split,
            "told": question.stem(question.places),
        }


def doc_to_text(document: Mapping[str, Any]) -> str:
    """The user turn of a document."""
    return _turn(document["question"], document)


def doc_to_told_text(document: Mapping[str, Any]) -> str:
    """The same with the places written in the stead of the names: the receiver's hop alone."""
    return _turn(document["told"], document)


def _turn(stem: str, document: Mapping[str, Any]) -> str:
    choices: Sequence[str] = document["choices"]
    return f"{stem} {letter_options(choices)}" if document["form"] == ONE else stem


def write(folder: Path = FOLDER) -> None:
    """Writes the committed file."""
    (folder / "test.jsonl").write_text(render_file(build_world(WORLD_SEED)), encoding="utf-8")


if __name__ == "__main__":
    write()
