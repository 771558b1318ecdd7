"""Writes the pages, and says which of them are not what the records give."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.leaderboard.export import board_record, serialised
from harness.leaderboard.format import BoardRecord
from harness.leaderboard.pages import MARK, render
from harness.leaderboard.reading import read_record, read_records
from harness.records.files import explained, write_atomic
from harness.records.loading import RECORD, load_run
from harness.records.naming import file_name


def add_record(leaderboards_dir: Path, run_folder: Path) -> Path:
    """Writes the record of a finished run into a board's folder and returns its path; the pages stay as they are.

    A record that is there already is replaced by the same run alone, for instance after a resume.

    Raises:
        UserError: if the folder holds no finished run, the board cannot be written, or another run has the same id.
    """
    record = board_record(load_run(run_folder))
    path = leaderboards_dir / "records" / f"{file_name(record.run.run_id)}.json"
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(leaderboards_dir):
        if path.exists() and not _same_run(read_record(path).record, record):
            raise UserError(
                f"{path} holds another run with the id {record.run.run_id!r}, which stays; give one of the two another "
                f"run_id in its {RECORD}."
            )
        write_atomic(path, serialised(record))
    return path


def write(leaderboards_dir: Path) -> list[Path]:
    """Generates every page from `records/`, removes generated ones that no record needs, and returns what changed.

    Raises:
        UserError: if a record is broken or the folder cannot be written.
    """
    with explained(leaderboards_dir):
        leaderboards_dir.mkdir(parents=True, exist_ok=True)
    with _writing(leaderboards_dir):
        return _pages_written(leaderboards_dir)


def _pages_written(leaderboards_dir: Path) -> list[Path]:
    pages = render(read_records(leaderboards_dir))
    changed = [leaderboards_dir / name for name, text in pages.items() if _read(leaderboards_dir / name) != text]
    stale = _stale(leaderboards_dir, set(pages))
    with explained(leaderboards_dir):
        for path in stale:
            path.unlink()
    for path in changed:
        write_atomic(path, pages[path.name])
    return sorted([*changed, *stale])


def check(leaderboards_dir: Path) -> list[str]:
    """Returns the names of pages and records that differ from what the records' questions give, sorted.

    Raises:
        UserError: if there is no such folder or a record is broken.
    """
    if not leaderboards_dir.is_dir():
        raise UserError(f"{leaderboards_dir} is no folder; name the leaderboards folder or write the boards first.")
    entries = read_records(leaderboards_dir)
    pages = render(entries)
    differing = [name for name, text in pages.items() if _read(leaderboards_dir / name) != text]
    differing += [path.name for path in _stale(leaderboards_dir, set(pages))]
    return sorted([*differing, *(f"records/{entry.name}" for entry in entries if not entry.consistent)])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Waits for other processes that write to this board: pages are made from all records."""
    with explained(folder):
        fd = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _same_run(there: BoardRecord, new: BoardRecord) -> bool:
    """Ids were once given by the second, so that an id alone does not say which run it was."""
    one, other = there.run, new.run
    if (one.run_id, one.identity) != (other.run_id, other.identity):
        return False
    same_session = (one.started_at, one.finished_at) == (other.started_at, other.finished_at)
    return other.resumed > 0 or (same_session and there.answers == new.answers)


def _read(path: Path) -> str | None:
    with explained(path):
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _stale(folder: Path, wanted: set[str]) -> list[Path]:
    """Generated pages without a record, with their CSV; pages that a person wrote are left alone."""
    pages = [path for path in folder.glob("*.md") if path.name not in wanted and (_read(path) or "").startswith(MARK)]
    return sorted([*pages, *(path.with_suffix(".csv") for path in pages if path.with_suffix(".csv").is_file())])
