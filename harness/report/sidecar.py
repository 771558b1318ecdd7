"""What a run asked, as it lies beside its answers in `questions.jsonl`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field

from harness.records import journal
from harness.records.schema import Record
from harness.results.grouping import Key

SIDECAR = "questions.jsonl"


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
    sharer_prompt: str = Field("", description="where the task gives the sharer a view of its own")


def read_questions(run_folder: Path) -> dict[Key, Question]:
    """Reads a run's sidecar of questions; empty where there is none.

    Raises:
        UserError: if a line of it is broken.
    """
    path = run_folder / SIDECAR
    if not path.is_file():
        return {}
    return {(question.task, question.doc_id): question for question in journal.read(path, Question).records}
