"""Append-only JSON lines: what `append` returned from is on the disk, whatever happens afterwards.

A batch is one write and one fsync. A process killed in between leaves at most one torn line, the last; readers
drop it with a warning and the next writer cuts it off. A line is torn only if it is no JSON: a JSON object cut
short never parses, so nothing complete is ever dropped. Everything else that is wrong is refused by name and line,
because guessing would change results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from pydantic_core import from_json

from harness.errors import RunError, UserError
from harness.records.files import explain, explained, sync_folder, write_fully
from harness.records.schema import Record
from harness.records.secret import scrub
from harness.records.versions import load

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
    with explained(path), path.open("rb") as stream:
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
        with explained(path):
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
                raise explain(self.path, error) from error
            raise
        self._size += len(data)

    def clear(self) -> None:
        """Drops every record.

        Raises:
            RunError: if the disk is failing.
        """
        with explained(self.path):
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
