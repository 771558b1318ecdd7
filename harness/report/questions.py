"""Questions and answers in columns, small enough to be carried inside a page.

Every text is kept once in a pool and named by its index; a prompt is kept as its wording around the question, which
most prompts of a task share. What still does not fit the page's budget is shortened, never left out, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ConfigDict, Field

from harness.leaderboard.format import ABSENT, FAILED, RIGHT, WRONG
from harness.records import journal
from harness.records.schema import Record, Sample, Timing
from harness.report.drawing import channel_color, color_variable
from harness.results.claims import has_message
from harness.results.groups import RECEIVER, Key, Table
from harness.results.rows import natural
from harness.results.wording import arm_text

SIDECAR = "questions.jsonl"
NO_TEXT = -1
QUESTION_MARK, CHOICE_MARKS = "\ue000", "\ue001"


class Question(Record):
    """One line of the sidecar: what was asked, as far as the run kept it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    doc_id: str
    question: str = ""
    choices: list[str] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    key: str = ""
    subject: str = ""
    prompt: str = ""


class Pool:
    """Texts by index, each once; lone surrogates become a replacement character, for no file can hold them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, text: str | None) -> int:
        """Returns the index of a text, -1 for none."""
        if text is None:
            return NO_TEXT
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text.encode("utf-8", "replace").decode("utf-8"))
        return self._index[text]


def read_questions(run_folder: Path) -> dict[Key, Question]:
    """Reads a run's sidecar of questions; empty where there is none.

    Raises:
        UserError: if a line of it is broken.
    """
    path = run_folder / SIDECAR
    if not path.is_file():
        return {}
    return {(question.task, question.doc_id): question for question in journal.read(path, Question).records}


def question_columns(
    table: Table, asked: Mapping[Key, Question], timings: Iterable[Timing], pool: Pool
) -> dict[str, Any]:
    """Returns one task's or group's questions and every arm's answers, column by column.

    Args:
        table: The samples.
        asked: What the sidecar knows of the questions.
        timings: The run's timings; a question has the median of its own in each arm.
        pool: Takes the texts.
    """
    keys = _keys(table)
    known = [asked.get(key) for key in keys]
    samples = [next(arm[key] for arm in table.arms.values() if key in arm) for key in keys]
    seconds = _seconds(timings)
    return {
        "ids": [pool.add(sample.doc_id) for sample in samples],
        "tasks": [pool.add(sample.task) for sample in samples],
        "keys": [pool.add(sample.key) for sample in samples],
        "labels": [[pool.add(label) for label in sample.labels] for sample in samples],
        "subjects": [pool.add(sample.subject or None) for sample in samples],
        "questions": [pool.add(question.question if question else None) for question in known],
        "choices": [[pool.add(choice) for choice in question.choices] if question else [] for question in known],
        "prompts": [pool.add(wording(question) if question else None) for question in known],
        "prompt_sha256": [pool.add(sample.prompt_sha256[:12]) for sample in samples],
        "arms": [_arm(arm, [by_key.get(key) for key in keys], seconds, pool) for arm, by_key in table.arms.items()],
    }


def wording(question: Question) -> str | None:
    """Returns the prompt with marks in place of question and options, so that a task's prompts become one text."""
    if not question.prompt:
        return None
    text = question.prompt.replace(question.question, QUESTION_MARK, 1) if question.question else question.prompt
    for index, choice in enumerate(question.choices):
        if choice:
            text = text.replace(f". {choice}\n", f". {CHOICE_MARKS}{index}{CHOICE_MARKS}\n", 1)
    return text


def _keys(table: Table) -> list[Key]:
    first: dict[Key, Sample] = {}
    for arm in table.arms.values():
        for key, sample in arm.items():
            first.setdefault(key, sample)
    return sorted(first, key=lambda key: (key[0], first[key].position, key[1]))


def _arm(
    arm: tuple[str, str], rows: Sequence[Sample | None], seconds: Mapping[tuple[Key, str, str], float], pool: Pool
) -> dict[str, Any]:
    def column(read: Callable[[Sample], str | None]) -> list[int]:
        found = [pool.add(read(row)) if row else NO_TEXT for row in rows]
        return found if any(index != NO_TEXT for index in found) else []

    return {
        "channel": arm[0],
        "control": arm[1],
        "name": arm_text(*arm),
        "color": color_variable(channel_color(arm[0])),
        "base": arm == RECEIVER,
        "sends": has_message(arm[0]),
        "marks": "".join(map(_mark, rows)),
        "predicted": column(lambda row: row.predicted),
        "strict": column(lambda row: row.predicted_strict),
        "texts": column(lambda row: row.text),
        "messages": column(lambda row: row.message_text),
        "routed": column(lambda row: row.routed_to),
        "errors": column(lambda row: f"{row.error.type}: {row.error.message}" if row.error else None),
        "nats": _nats(rows),
        "e2e_s": {
            index: round(seconds[place], 6)
            for index, row in enumerate(rows)
            if row and (place := ((row.task, row.doc_id), *arm)) in seconds
        },
    }


def _mark(sample: Sample | None) -> str:
    if sample is None:
        return ABSENT
    return (RIGHT if sample.correct else WRONG) if sample.done else FAILED


def _nats(rows: Sequence[Sample | None]) -> list[list[float]]:
    """Loglikelihoods to a hundredth of a nat; empty where the arm generated."""
    found = [[round(x, 2) for x in row.loglikelihoods or []] if row and row.done else [] for row in rows]
    return found if any(found) else []


def _seconds(timings: Iterable[Timing]) -> dict[tuple[Key, str, str], float]:
    by_question: dict[tuple[Key, str, str], list[float]] = {}
    for timing in natural(list(timings)):
        key = ((timing.task, timing.doc_id), timing.channel, timing.control)
        by_question.setdefault(key, []).append(timing.e2e_s)
    return {key: median(seconds) for key, seconds in by_question.items()}
