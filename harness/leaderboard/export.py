"""A run folder -> the record that its board keeps.

Only finished runs get a record: half a run would look like a small benchmark.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.leaderboard.format import ABSENT, FAILED, RIGHT, WRONG, Answers, BoardRecord, Questions, Seconds, pack
from harness.records import LoadedRun, load_run
from harness.records.schema import SCHEMA_VERSION, Sample, Timing
from harness.records.secret import scrub
from harness.results import facts_of, summarise
from harness.results.groups import arm_order

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
    variants = {row.channel: row.variant for row in run.record.results if row.variant}
    return BoardRecord(
        run=run.record.model_copy(update={name: type(getattr(run.record, name))() for name in _emptied(run)}),
        groups=dict(facts.groups),
        results=summarise(run.samples, run.timings, facts, variants),
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
