"""Records back to samples and timings, so that boards, terminal and page share one arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.errors import UserError
from harness.leaderboard.format import ABSENT, FAILED, RIGHT, Answers, BoardRecord, Seconds, unpack
from harness.records.files import explained
from harness.records.loading import LoadedRun
from harness.records.schema import Failure, ResultRow, Sample, Timing
from harness.records.versions import load
from harness.results import facts_of, summarise

_FAILED = Failure(type="Recorded", message="an error in the run")
# Intervals are recomputed with the statistics of today, so that those of the day of a record are not compared.
_COUNTS = ("n", "errors", "invalid", "accuracy", "e2e_s_p50", "ttft_s_p50")


@dataclass(frozen=True)
class Entry:
    """One record, ready to be summarised.

    Attributes:
        rows: Recomputed from the questions, with the means that only the run knew taken over.
    """

    name: str
    record: BoardRecord
    samples: list[Sample]
    timings: list[Timing]
    rows: list[ResultRow]

    @property
    def loaded(self) -> LoadedRun:
        """The record as a run."""
        record = self.record.run.model_copy(update={"groups": self.record.groups})
        return LoadedRun(Path(self.name), record, self.samples, self.timings)

    @property
    def consistent(self) -> bool:
        """Whether the stored aggregates are what the stored questions give."""
        stored = {(row.task, row.channel, row.control): row for row in self.record.results}
        # Rows without a model pass follow from the questions; records of before they were shown lack them.
        rows = [row for row in self.rows if row.model_pass or (row.task, row.channel, row.control) in stored]
        return stored.keys() == {(row.task, row.channel, row.control) for row in rows} and all(
            _same(row, stored[(row.task, row.channel, row.control)]) for row in rows
        )


def read_records(folder: Path) -> list[Entry]:
    """Reads every record of a leaderboard folder, by file name.

    Raises:
        UserError: if a file is broken or newer than this harness, or two hold the same run.
    """
    entries = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
    seen: dict[str, str] = {}
    for entry in entries:
        other = seen.setdefault(entry.record.run.run_id, entry.name)
        if other != entry.name:
            raise UserError(f"{entry.name} and {other} hold the same run {entry.record.run.run_id}; delete one.")
    return entries


def read_record(path: Path) -> Entry:
    """Reads and checks one record.

    Raises:
        UserError: if the file is broken or newer than this harness.
    """
    with explained(path):
        content = path.read_bytes()
    try:
        return entry_of(path.name, load(from_json(content), BoardRecord, str(path)))
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no valid record ({reason}); export the run again.") from error


def entry_of(name: str, record: BoardRecord) -> Entry:
    """Lays the answers of a record out as samples and timings, and computes its rows.

    Raises:
        ValueError: if the columns do not fit the questions.
    """
    samples = [sample for answers in record.answers for sample in _samples(record, answers)]
    timings = [timing for seconds in record.timings for timing in _timings(record, seconds)]
    return Entry(name, record, samples, timings, _rows(record, samples, timings))


def _rows(record: BoardRecord, samples: Sequence[Sample], timings: Sequence[Timing]) -> list[ResultRow]:
    stored = {(row.task, row.channel, row.control): row for row in record.results}
    rows = summarise(samples, timings, facts_of(record.run, record.groups))
    return [_with_means(row, stored.get((row.task, row.channel, row.control))) for row in rows]


def _with_means(row: ResultRow, stored: ResultRow | None) -> ResultRow:
    """A record keeps no sizes of single answers: a row that was not stored has no mean, not one of zero."""
    if stored is None:
        return row.model_copy(update={"payload_bytes_mean": None, "tokens_out_mean": None})
    taken = ("variant",) if not row.model_pass else ("payload_bytes_mean", "tokens_out_mean", "variant", "echoes")
    return row.model_copy(update={name: getattr(stored, name) for name in taken})


def _same(row: ResultRow, stored: ResultRow) -> bool:
    return all(_close(getattr(row, name), getattr(stored, name)) for name in _COUNTS)


def _close(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=1e-9)


def _samples(record: BoardRecord, arm: Answers) -> Iterator[Sample]:
    questions = record.questions[arm.task]
    for index, (doc_id, mark) in enumerate(zip(questions.ids, arm.marks, strict=True)):
        if mark == ABSENT:
            continue
        failed = mark == FAILED
        fields: dict[str, Any] = {
            "task": arm.task,
            "doc_id": doc_id,
            "position": index,
            "channel": arm.channel,
            "control": arm.control,
            "kind": arm.kind,
            "prompt_sha256": "",
            "subject": questions.subjects[questions.subject[index]] if questions.subject else "",
            "labels": questions.labels(index),
            "cluster": questions.cluster.get(doc_id, ""),
            "key": questions.keys[index],
            "predicted": unpack(arm.predicted, index),
            "predicted_strict": unpack(arm.predicted_strict, index),
            "correct": None if failed else mark == RIGHT,
            "correct_strict": None if failed or not arm.marks_strict else arm.marks_strict[index] == RIGHT,
            "error": _FAILED if failed else None,
        }
        yield Sample(**fields)


def _timings(record: BoardRecord, arm: Seconds) -> Iterator[Timing]:
    ids = record.questions[arm.task].ids
    columns = zip(arm.question, arm.round, arm.ttft_s, arm.e2e_s, arm.tokens_out, strict=True)
    for index, (question, turn, ttft_s, e2e_s, tokens_out) in enumerate(columns):
        fields: dict[str, Any] = {
            "task": arm.task,
            "doc_id": ids[question],
            "position": question,
            "channel": arm.channel,
            "control": arm.control,
            "round": turn,
            "stages_s": {stage: seconds[index] for stage, seconds in arm.stages_s.items()},
            "ttft_s": ttft_s,
            "e2e_s": e2e_s,
            "tokens_out": tokens_out,
            "equal_length": arm.equal_length,
        }
        yield Timing(**fields)
