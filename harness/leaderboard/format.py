"""The file format of a board's record: provenance, aggregates, and per question what the paired tests need.

Columns instead of samples keep it small: one character a question and arm for right or wrong. Texts stay out, so
a record shows no dataset's content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_uppercase

from pydantic import Field

from harness.records.schema import SCHEMA_VERSION, Kind, Record, ResultRow, RunRecord

RIGHT, WRONG, FAILED, ABSENT = "1", "0", "!", "."
NONE = "-"


class Questions(Record):
    """The questions of one task, in order."""

    ids: list[str]
    keys: str | list[str]
    subjects: list[str] = Field(default_factory=list)
    subject: list[int] = Field(
        default_factory=list, description="index into subjects, one a question; empty without subjects"
    )
    options: list[int] = Field(
        default_factory=list, description="number of options, one a question or one for all; empty where not known"
    )
    cluster: dict[str, str] = Field(
        default_factory=dict, description="id -> cluster, of questions that belong to one beyond their subject"
    )

    def labels(self, index: int) -> list[str]:
        """The labels of a question's options; empty where their number is not known."""
        if not self.options:
            return []
        return list(ascii_uppercase[: self.options[index if len(self.options) > 1 else 0]])


class Answers(Record):
    """One arm over the questions of one task."""

    task: str
    channel: str
    control: str = ""
    kind: Kind
    marks: str = Field(description="one a question: 1 right, 0 wrong, ! error, . not asked")
    predicted: str | list[str] = Field(description="one a question, - where there is none")
    predicted_strict: str | list[str] = ""
    marks_strict: str = Field(default="", description="as marks, by the strict parser; empty where there was none")


class Seconds(Record):
    """The timings of one arm on one task, in columns."""

    task: str
    channel: str
    control: str = ""
    equal_length: bool = False
    question: list[int]
    round: list[int]
    ttft_s: list[float]
    e2e_s: list[float]
    tokens_out: list[int]
    stages_s: dict[str, list[float]] = Field(default_factory=dict)


class BoardRecord(Record):
    """One file under `leaderboards/records/`."""

    schema_version: int = SCHEMA_VERSION
    run: RunRecord
    groups: dict[str, list[str]] = Field(default_factory=dict)
    results: list[ResultRow]
    questions: dict[str, Questions]
    answers: list[Answers]
    timings: list[Seconds] = Field(default_factory=list)


def pack(values: Iterable[str | None]) -> str | list[str]:
    """Packs labels into one string where each is a single character, else keeps the list."""
    listed = [NONE if value is None else value for value in values]
    return "".join(listed) if all(len(value) == 1 for value in listed) else listed


def unpack(values: Sequence[str], index: int) -> str | None:
    """Returns the label at an index of a packed column, None where there is none."""
    return None if not values or values[index] == NONE else values[index]
