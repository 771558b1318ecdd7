"""The record that a board keeps of a run: its file format, its export, and its way back to samples.

A record holds provenance, aggregates, and per question what the paired tests need. Columns instead of samples keep it
small: one character a question and arm for right or wrong. Texts stay out, so a record shows no dataset's content. Only
finished runs get a record, because half a run would look like a small benchmark.

A record is read back to samples and timings, so that boards, terminal and page share one arithmetic.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from harness.errors import UserError
from harness.records.files import explaining, scrub
from harness.records.journal import LoadedRun, load_run
from harness.records.migrations import load
from harness.records.schema import SCHEMA_VERSION, Failure, Kind, Record, ResultRow, RunRecord, Sample, Timing
from harness.results import facts_of, summarise, summarise_run
from harness.results.grouping import arm_order

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


_LEFT_OUT = {"config", "command", "results", "counters", "fusion", "warnings", "error"}


def export_record(run_folder: Path) -> dict[str, Any]:
    """Reads a finished run and returns the content of its record.

    Raises:
        UserError: if the folder holds no run, or one that did not finish.
    """
    return _content(board_record(load_run(run_folder)))


def serialised(record: BoardRecord) -> str:
    """Returns the text of a record's file."""
    return serialise(_content(record))


def _content(record: BoardRecord) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, **record.model_dump(mode="json", exclude_defaults=True)}


def board_record(run: LoadedRun) -> BoardRecord:
    """Builds the record of a loaded run.

    Raises:
        UserError: if the run did not finish or holds no samples.
    """
    if run.record.status != "success" or not run.samples:
        raise UserError(
            f"Run {run.record.run_id} has status {run.record.status!r} and {len(run.samples)} samples; a leaderboard "
            f"takes finished runs with samples; resume it or choose another."
        )
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(run.samples, key=lambda sample: (sample.task, sample.position, sample.doc_id)):
        by_task[sample.task].append(sample)
    questions = {task: _questions(samples) for task, samples in by_task.items()}
    facts = facts_of(run.record)
    return BoardRecord(
        run=run.record.model_copy(update={name: type(getattr(run.record, name))() for name in _emptied(run)}),
        groups=dict(facts.groups),
        results=summarise_run(run),
        questions=questions,
        answers=[arm for task, samples in by_task.items() for arm in _answers(samples, questions[task].ids)],
        timings=_timings(run.timings, questions),
    )


def serialise(record: Mapping[str, Any]) -> str:
    """Writes a record with one line a part, keys in order, secrets struck out."""
    parts = (f"{json.dumps(key)}: {_compact(value)}" for key, value in sorted(record.items()))
    return scrub("{\n" + ",\n".join(parts) + "\n}\n")


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _emptied(run: LoadedRun) -> set[str]:
    return {name for name in _LEFT_OUT if getattr(run.record, name) is not None}


def _questions(samples: Sequence[Sample]) -> Questions:
    first = {sample.doc_id: sample for sample in reversed(samples)}
    ids = list(dict.fromkeys(sample.doc_id for sample in samples))
    subjects = sorted({first[doc_id].subject for doc_id in ids})
    place = {subject: index for index, subject in enumerate(subjects)}
    named = subjects != [""]
    return Questions(
        ids=ids,
        keys=pack(first[doc_id].key for doc_id in ids),
        subjects=subjects if named else [],
        subject=[place[first[doc_id].subject] for doc_id in ids] if named else [],
        options=_options([len(first[doc_id].labels) for doc_id in ids]),
        cluster={doc_id: first[doc_id].cluster for doc_id in ids if first[doc_id].cluster},
    )


def _options(counts: Sequence[int]) -> list[int]:
    """One number for all where all are alike, none where any is not known."""
    if not all(counts):
        return []
    return [counts[0]] if len(set(counts)) == 1 else list(counts)


def _answers(samples: Sequence[Sample], ids: Sequence[str]) -> list[Answers]:
    by_arm: dict[tuple[str, str], dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        by_arm[sample.arm][sample.doc_id] = sample
    return [_arm(by_arm[arm], ids) for arm in sorted(by_arm, key=arm_order)]


def _arm(by_id: Mapping[str, Sample], ids: Sequence[str]) -> Answers:
    rows = [by_id.get(doc_id) for doc_id in ids]
    any_row = next(row for row in rows if row is not None)
    strict = any(row is not None and row.correct_strict is not None for row in rows)
    return Answers(
        task=any_row.task,
        channel=any_row.channel,
        control=any_row.control,
        kind=any_row.kind,
        marks="".join(_mark(row, strict=False) for row in rows),
        predicted=pack(row.predicted if row else None for row in rows),
        predicted_strict=pack(row.predicted_strict if row else None for row in rows) if strict else "",
        marks_strict="".join(_mark(row, strict=True) for row in rows) if strict else "",
    )


def _mark(sample: Sample | None, *, strict: bool) -> str:
    if sample is None:
        return ABSENT
    correct = sample.correct_strict if strict else sample.correct
    return FAILED if not sample.done or correct is None else (RIGHT if correct else WRONG)


def _timings(timings: Sequence[Timing], questions: Mapping[str, Questions]) -> list[Seconds]:
    known = [timing for timing in timings if timing.task in questions]
    index = {task: {doc_id: i for i, doc_id in enumerate(found.ids)} for task, found in questions.items()}
    kept = sorted((t for t in known if t.doc_id in index[t.task]), key=lambda t: (*_column(t), t.round, t.position))
    return [_seconds(list(rows), index) for _, rows in groupby(kept, key=_column)]


def _column(timing: Timing) -> tuple[str, object, bool]:
    return timing.task, arm_order((timing.channel, timing.control)), timing.equal_length


def _seconds(rows: Sequence[Timing], index: Mapping[str, Mapping[str, int]]) -> Seconds:
    first = rows[0]
    stages = sorted({stage for row in rows for stage in row.stages_s})
    return Seconds(
        task=first.task,
        channel=first.channel,
        control=first.control,
        equal_length=first.equal_length,
        question=[index[row.task][row.doc_id] for row in rows],
        round=[row.round for row in rows],
        ttft_s=[row.ttft_s for row in rows],
        e2e_s=[row.e2e_s for row in rows],
        tokens_out=[row.tokens_out for row in rows],
        stages_s={stage: [row.stages_s.get(stage, 0.0) for row in rows] for stage in stages},
    )


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
    with explaining(path):
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
    timings = [timing for seconds in record.timings for timing in _read_timings(record, seconds)]
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


def _read_timings(record: BoardRecord, arm: Seconds) -> Iterator[Timing]:
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
