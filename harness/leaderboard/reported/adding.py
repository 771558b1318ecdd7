"""Puts reported records into a board's folder; the same results twice change nothing."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError
from harness.leaderboard.locking import writing_lock
from harness.leaderboard.record_format import serialise
from harness.leaderboard.reported.format import ReportedRecord
from harness.leaderboard.reported.reading import FOLDER, Reported, check_together, read_reported
from harness.records.files import explaining, write_atomic
from harness.records.schema import SCHEMA_VERSION


def add_reported(leaderboards_dir: Path, records: list[ReportedRecord]) -> list[Path]:
    """Writes records into a board's folder; the pages stay as they are.

    Args:
        leaderboards_dir: the board.
        records: all of them or none are written.

    Returns:
        Paths of those that were not there yet, or not like this.

    Raises:
        UserError: if the folder cannot be written, a file of that source was imported with another content, or an arm
            of that source is there already from another file.
    """
    folder = leaderboards_dir / FOLDER
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writing_lock(leaderboards_dir):
        there = {one.name: one for one in read_reported(leaderboards_dir)}
        added = {f"{record.name}.json": Reported(f"{record.name}.json", record) for record in records}
        for name in added.keys() & there.keys():
            _refuse_other_content(folder / name, there[name].record, added[name].record)
        check_together([*{**there, **added}.values()])
        changed = [name for name, one in added.items() if name not in there or there[name].record != one.record]
        for name in changed:
            write_atomic(folder / name, serialise_reported(added[name].record))
    return [folder / name for name in sorted(changed)]


def serialise_reported(record: ReportedRecord) -> str:
    """Returns the text of a record's file."""
    return serialise({"schema_version": SCHEMA_VERSION, **record.model_dump(mode="json", exclude_defaults=True)})


def _refuse_other_content(path: Path, there: ReportedRecord, new: ReportedRecord) -> None:
    """A path at a commit has one content; a description of it may be mended."""
    before = {file.path: file.sha256 for file in there.files}
    for file in new.files:
        if before[file.path] != file.sha256:
            raise UserError(
                f"{file.path} of {new.source} has sha256 {file.sha256[:12]}, but {path} was made from one with "
                f"{before[file.path][:12]}; one commit holds one of them: name the right commit, or delete that record."
            )
