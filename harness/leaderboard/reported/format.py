"""The file format of reported results under `leaderboards/records/reported/`: where they come from, and what was said.

One record holds the arms of one file (or of several parts of one file) on one task and pair. Its name follows from the
repository, the commit, the task, the pair and the paths, so that the same results always have the same file.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import Field

from harness.leaderboard.record_format import NONE, Questions
from harness.leaderboard.reported.packing import PackedQuestions
from harness.records.files import file_name
from harness.records.schema import SCHEMA_VERSION, Kind, Record

NOT_ASKED = "."
_SHORT = 8


class SourceFile(Record):
    """A file that results were read from."""

    path: str = Field(description="inside the repository")
    sha256: str = ""


class ReportedArm(Record):
    """What one channel answered, a character a question."""

    channel: str
    control: str = ""
    variant: str = Field("", description="what tells it from other arms of the same channel and source")
    predicted: str = Field(description="letter, - where none could be read, . where the question was not asked")
    predicted_strict: str = Field("", description="by the strict parser; empty where no texts were published")
    echoes: int | None = Field(None, description="answers that repeat the instruction's labels; None without texts")
    latency_ms: list[float | None] = Field([], description="as their evaluator took it, to 0.1; empty where it did not")
    tokens_out_mean: float | None = None
    right: int
    invalid: int


class Figure(Record):
    """An accuracy that was published without its questions."""

    channel: str
    control: str = ""
    variant: str = ""
    n: int = Field(gt=0)
    right: int = Field(ge=0)
    invalid: int | None = None
    e2e_s_mean: float | None = None


class ReportedRecord(Record):
    """One file under `leaderboards/records/reported/`."""

    schema_version: int = SCHEMA_VERSION
    repository: str
    commit: str
    licence: str
    evaluator: str = Field(description="what scored the answers")
    hardware: str = ""
    note: str = ""
    files: list[SourceFile] = Field(default_factory=list)
    task: str
    receiver: str
    sharers: list[str] = Field(default_factory=list)
    kind: Kind = "generate"
    joined_by: list[str] = Field([], description="fields that agree with our questions; empty = not joined")
    own_ids: bool = Field(False, description="not joined, but named by the source: its files are compared by these ids")
    of_questions: int | None = Field(None, description="questions of our task, where joined")
    cut_options: int = Field(0, description="questions of which the file lists the first options alone")
    questions: PackedQuestions | None = None
    arms: list[ReportedArm] = Field(default_factory=list)
    figures: list[Figure] = Field(default_factory=list)

    @property
    def source(self) -> str:
        """Where it comes from, in short."""
        apart = ", not joined" if self.arms and not self.joined_by else ""
        return f"{self.repository} @ {self.commit[:_SHORT]}{apart}"

    @property
    def asked(self) -> Questions | None:
        """Its questions as a board's record has them; None where it holds figures alone."""
        return None if self.questions is None else self.questions.unpacked()

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        paths = sorted(file.path for file in self.files)
        what = [self.repository, self.commit, self.task, self.receiver, self.sharers, bool(self.arms), paths]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
        words = f"{self.repository.replace('/', '-')}-{self.commit[:_SHORT]}-{self.task}-{digest}"
        return file_name(words.lower())

    def faults(self) -> str:
        """Says what in it contradicts itself; empty where nothing does."""
        if bool(self.arms) == bool(self.figures) or bool(self.arms) != (self.questions is not None):
            return "it has to hold either arms with their questions or figures"
        if any(figure.right > figure.n for figure in self.figures):
            return "a figure has more right answers than questions"
        asked = self.asked
        return "" if asked is None else next((fault for arm in self.arms if (fault := _fault(arm, asked))), "")


def _fault(arm: ReportedArm, questions: Questions) -> str:
    n, arm_name = len(questions.ids), f"arm {arm.channel} {arm.variant}".rstrip()
    columns = (arm.predicted_strict, arm.latency_ms, questions.subject)
    if {len(questions.keys), len(arm.predicted), *(len(column) or n for column in columns)} != {n}:
        return f"the columns of {arm_name} do not have one entry a question"
    asked = list(zip(arm.predicted, questions.keys, strict=True))
    right = sum(letter == key for letter, key in asked)
    if (right, arm.predicted.count(NONE)) != (arm.right, arm.invalid):
        return f"{arm_name} says {arm.right} right and {arm.invalid} invalid, but its letters give {right} right"
    return ""
