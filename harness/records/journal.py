"""Append-only journals of JSON lines, and a run folder as its readers see it.

What `append` returned from is on the disk, whatever happens afterwards. A batch is one write and one fsync. A process
killed in between leaves at most one torn line, the last; readers drop it with a warning and the next writer cuts it
off. A line is torn only if it is not JSON: a JSON object cut short never parses, so nothing complete is dropped. Any
other fault is refused by name and line, because guessing would change results.

A run folder is read without a lock, also while the run goes on. It is checked line by line, and aggregates in
`run.json` are never trusted over the journals. A number that is not finite makes its sample an error, so that it is
counted and never scored.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from pydantic_core import from_json

from harness.errors import RunError, UserError
from harness.paths import program
from harness.records.files import explain_os_error, explaining, scrub, sync_folder, write_fully
from harness.records.migrations import load
from harness.records.schema import Failure, Record, RunRecord, Sample, Timing

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Journalled(Generic[R]):
    """What a journal holds: `size` is the offset in bytes behind its last whole line."""

    records: list[R]
    warnings: list[str]
    size: int


def encode(record: Record, indent: int | None = None) -> bytes:
    """Returns the record as JSON, without access tokens, with a newline at its end.

    NaN and infinities stay what they are, as JSON constants; half a surrogate pair, which no file can hold, becomes
    a question mark.
    """
    text = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=indent)
    return scrub(text).encode(errors="replace") + b"\n"


def read(path: Path, model: type[R], channels: Sequence[str] = ()) -> Journalled[R]:
    """Reads every record of a journal, in the order written; `channels` are those of its run.

    Raises:
        UserError: naming file and line, if a line before the last is broken or any line is not a `model`.
    """
    records: list[R] = []
    size = end = torn = 0
    with explaining(path), path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            end += len(line)
            if not line.strip():
                continue
            if torn:
                raise UserError(f"{path} line {torn} is broken and others follow it; restore or delete that line.")
            try:
                data = from_json(line)
            except ValueError:
                torn = number
                continue
            records.append(load(data, model, f"{path} line {number}", channels))
            size = end
    warnings = [f"{path} line {torn} was cut short and is left out; its record counts as not done."] if torn else []
    return Journalled(records, warnings, size)


class Journal(Generic[R]):
    """The only writer of one file of JSON lines; hold the folder's lock while it is open.

    Attributes:
        found: the records that were there when it was opened.
        warnings: what was wrong with them.
    """

    def __init__(self, path: Path, model: type[R], channels: Sequence[str] = ()) -> None:
        self.path = path
        with explaining(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                sync_folder(path.parent)
                held = read(path, model, channels)
                self.found, self.warnings, self._size = held.records, held.warnings, held.size
                self._repair()
            except BaseException:
                os.close(self._fd)
                raise
        self._broken = False

    def append(self, records: Iterable[R]) -> None:
        """Writes a batch; either all of it is on the disk or none.

        Raises:
            RunError: if the disk is full or failing; what was written before stays valid.
        """
        data = b"".join(map(encode, records))
        if self._broken:
            raise RunError(f"{self.path} could not be restored after a failed write; resume the run to go on.")
        try:
            write_fully(self._fd, data)
            os.fsync(self._fd)
        except BaseException as error:
            self._cut_back()
            if isinstance(error, OSError):
                raise explain_os_error(self.path, error) from error
            raise
        self._size += len(data)

    def clear(self) -> None:
        """Drops every record.

        Raises:
            RunError: if the disk is failing.
        """
        with explaining(self.path):
            os.ftruncate(self._fd, 0)
            os.fsync(self._fd)
        self._size = 0

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repair(self) -> None:
        """Cuts a torn line off and ends a whole last line that lacks its newline."""
        os.ftruncate(self._fd, self._size)
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            write_fully(self._fd, b"\n")
            self._size += 1

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = True


RECORD, SAMPLES, TIMINGS = "run.json", "samples.jsonl", "timings.jsonl"

_OF_RANK = re.compile(r"samples-(\d+)\.jsonl")


def without_nonfinite(sample: Sample) -> Sample:
    """Turns a sample with a number that is not finite into an error without a score."""
    numbers = [*(sample.loglikelihoods or []), *sample.metrics.values(), sample.entropy or 0.0]
    if sample.error is not None or all(map(math.isfinite, numbers)):
        return sample
    failure = Failure(type="NotFinite", message="the model returned NaN or an infinity")
    unscored = dict.fromkeys(("predicted", "predicted_strict", "correct", "correct_strict"))
    return sample.model_copy(update={**unscored, "error": failure})


def latest_samples(samples: Iterable[Sample]) -> list[Sample]:
    """Keeps one sample a (task, doc_id, channel, control): the last done one, or the last if none is done."""
    kept: dict[tuple[str, str, str, str], Sample] = {}
    for sample in samples:
        key = (sample.task, sample.doc_id, sample.channel, sample.control)
        if sample.done or key not in kept or not kept[key].done:
            kept[key] = sample
    return list(kept.values())


@dataclass(frozen=True)
class LoadedRun:
    """A run as read: one sample a question and arm, every timing, and what was wrong with the files."""

    path: Path
    record: RunRecord
    samples: list[Sample]
    timings: list[Timing]
    warnings: list[str] = field(default_factory=list)


def tell_warnings(runs: Iterable[LoadedRun]) -> None:
    """Prints what was wrong with the files of some runs."""
    for run in runs:
        for warning in run.warnings:
            print(f"Note: {warning}", file=sys.stderr)


def rank_journal(folder: Path, rank: int) -> Path:
    """Where a further process of a run writes its samples until the run ends well."""
    return folder / f"samples-{rank}.jsonl"


def rank_journals(folder: Path) -> list[Path]:
    """The journals of further processes, in their order; none in the folder of a run that ended well."""
    found = [(match, path) for path in folder.iterdir() if (match := _OF_RANK.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: int(pair[0][1]))]


def read_rank_journals(folder: Path, channels: Sequence[str] = ()) -> Journalled[Sample]:
    """Reads what further processes have journalled; `channels` are those of the run.

    Raises:
        UserError: if a file is broken or newer than this harness.
    """
    records: list[Sample] = []
    warnings: list[str] = []
    for path in rank_journals(folder):
        try:
            found = read(path, Sample, channels)
        except UserError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            continue  # the run has just ended well, and its samples are in the first journal
        records += found.records
        warnings += found.warnings
    return Journalled(records, warnings, 0)


def is_run(folder: Path) -> bool:
    """Says whether `folder` holds a run."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> RunRecord:
    """Reads `run.json`.

    Raises:
        UserError: if the folder is no run folder or the file is broken or newer than this harness.
    """
    path = folder / RECORD
    if not is_run(folder):
        raise UserError(f"{folder} is no run folder: it has no {RECORD}; give the folder that a run was written to.")
    with explaining(path):
        content = path.read_bytes()
    try:
        data = from_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore the file or run again.") from error
    return load(data, RunRecord, str(path))


def channels_of(record: RunRecord) -> list[str]:
    """The channels of a run with their options, as its configuration names them."""
    named = record.config.get("channels", [])
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def load_run(folder: Path) -> LoadedRun:
    """Reads a run folder, finished or not.

    Raises:
        UserError: if it is no run folder, or a file of it is missing, incomplete, broken or newer than this harness.
    """
    record = read_record(folder)
    channels = channels_of(record)
    others = read_rank_journals(folder, channels)  # before the first journal, into which they are moved when a run ends
    samples = read(folder / SAMPLES, Sample, channels)
    timings = read(folder / TIMINGS, Timing, channels)
    warnings = [*samples.warnings, *others.warnings, *timings.warnings]
    found = latest_samples(map(without_nonfinite, [*samples.records, *others.records]))
    _check_whole(folder, record, found)
    return LoadedRun(folder, record, found, timings.records, warnings)


def _check_whole(folder: Path, record: RunRecord, samples: Iterable[Sample]) -> None:
    """Refuses a run that ended well and has lost answers since: a part of them would look like a smaller benchmark."""
    if record.status != "success":
        return
    left = Counter((sample.task, sample.channel, sample.control) for sample in samples)
    for row in record.results:
        here, alone = left[row.task, row.channel, row.control], record.groups.get(row.task, [row.task]) == [row.task]
        if alone and row.model_pass and here != row.n:
            arm = f"{row.channel}/{row.control}" if row.control else row.channel
            raise UserError(
                f"{folder / SAMPLES} holds {here} of {row.n} answers to {row.task} through {arm}; restore the file "
                f"or answer them again with {program()} resume {folder}."
            )
