"""Reported records back to samples, so that intervals and tests are those of our own rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.errors import UserError
from harness.leaderboard.record_format import NONE, unpack
from harness.leaderboard.reported.format import NOT_ASKED, Figure, ReportedArm, ReportedRecord
from harness.records.files import explaining
from harness.records.migrations import load
from harness.records.schema import Sample

FOLDER = Path("records") / "reported"


@dataclass(frozen=True)
class Reported:
    """One record of reported results under its file's name."""

    name: str
    record: ReportedRecord

    @property
    def place(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Source, task and pair: what arms have to share to be compared."""
        record = self.record
        return (record.source, record.task, record.receiver, tuple(record.sharers))

    @property
    def arms(self) -> list[ReportedArm | Figure]:
        """Its arms or figures."""
        return [*self.record.arms, *self.record.figures]


def read_reported(folder: Path) -> list[Reported]:
    """Reads every reported record of a leaderboard folder, by file name.

    Raises:
        UserError: if a file is broken or contradicts itself, two hold the same arm, or two joined ones differ in a key.
    """
    found = [read_reported_file(path) for path in sorted((folder / FOLDER).glob("*.json"))]
    check_together(found)
    return found


def check_together(records: Sequence[Reported]) -> None:
    """Refuses records that cannot stand on one board.

    Raises:
        UserError: if two hold the same arm, or two joined ones differ in a key.
    """
    _refuse_repeated(records)
    _refuse_other_keys(records)


def read_reported_file(path: Path) -> Reported:
    """Reads and checks one record.

    Raises:
        UserError: if the file is broken, newer than this harness or contradicts itself.
    """
    with explaining(path):
        content = path.read_bytes()
    try:
        record = load(from_json(content), ReportedRecord, str(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({str(error).splitlines()[0]}); import the results again.") from error
    if fault := record.faults():
        raise UserError(f"{path} contradicts itself: {fault}; import the results again.")
    return Reported(path.name, record)


def samples_of(record: ReportedRecord, arm: ReportedArm) -> Iterator[Sample]:
    """Yields an arm's answers; questions that nobody named have ids of this record alone."""
    questions = record.asked
    assert questions is not None
    apart = "" if record.joined_by or record.own_ids else f"{record.name}/"
    for index, (doc_id, letter) in enumerate(zip(questions.ids, arm.predicted, strict=True)):
        if letter == NOT_ASKED:
            continue
        key, strict = questions.keys[index], unpack(arm.predicted_strict, index)
        fields: dict[str, Any] = {
            "task": record.task,
            "doc_id": f"{apart}{doc_id}",
            "position": index,
            "channel": arm.channel,
            "control": arm.control,
            "kind": record.kind,
            "prompt_sha256": "",
            "subject": questions.subjects[questions.subject[index]] if questions.subject else "",
            "labels": questions.labels(index),
            "cluster": questions.cluster.get(doc_id, ""),
            "key": key,
            "predicted": None if letter == NONE else letter,
            "predicted_strict": strict,
            "correct": letter == key,
            "correct_strict": strict == key if arm.predicted_strict else None,
        }
        yield Sample(**fields)


def _refuse_repeated(found: Iterable[Reported]) -> None:
    """One arm of a source stands once on a task and pair, whatever file it came from."""
    seen: dict[tuple[object, ...], str] = {}
    for one in found:
        for arm in one.arms:
            key = (one.place, arm.channel, arm.control, arm.variant)
            if key in seen:
                name = " ".join(filter(None, (arm.channel, arm.control, arm.variant)))
                raise UserError(
                    f"{one.name} and {seen[key]} both hold {name} of {one.record.source} on {one.record.task}; delete "
                    "one or give one of them a variant."
                )
            seen[key] = one.name


def _refuse_other_keys(found: Iterable[Reported]) -> None:
    keys: dict[tuple[str, str, str], tuple[str, str]] = {}
    for one in found:
        named_by = "" if one.record.joined_by else one.record.source
        for doc_id, key in _named_keys(one.record).items():
            known, other = keys.setdefault((named_by, one.record.task, doc_id), (key, one.name))
            if known != key:
                raise UserError(
                    f"{one.name} says that {key} is right in question {doc_id} of {one.record.task}, but {other} says "
                    f"{known}; import both again."
                )


def _named_keys(record: ReportedRecord) -> Mapping[str, str]:
    asked = record.asked if record.joined_by or record.own_ids else None
    return {} if asked is None else dict(zip(asked.ids, asked.keys, strict=True))
