"""Writes the pages, and says which of them are not what the records give."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import UserError
from harness.leaderboard.export import export_record, serialise
from harness.leaderboard.pages import MARK, render
from harness.leaderboard.reading import read_records
from harness.records.files import explained, write_atomic


def add_record(leaderboards_dir: Path, run_folder: Path) -> Path:
    """Writes the record of a finished run into a board's folder and returns its path; the pages stay as they are.

    Raises:
        UserError: if the folder holds no finished run, or the board cannot be written.
    """
    record = export_record(run_folder)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(record["run"]["run_id"])).strip(".-") or "run"
    path = leaderboards_dir / "records" / f"{name}.json"
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, serialise(record))
    return path


def write(leaderboards_dir: Path) -> list[Path]:
    """Generates every page from `records/`, removes generated ones that no record needs, and returns what changed.

    Raises:
        UserError: if a record is broken or the folder cannot be written.
    """
    pages = render(read_records(leaderboards_dir))
    changed = [leaderboards_dir / name for name, text in pages.items() if _read(leaderboards_dir / name) != text]
    stale = _stale(leaderboards_dir, set(pages))
    with explained(leaderboards_dir):
        leaderboards_dir.mkdir(parents=True, exist_ok=True)
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


def _read(path: Path) -> str | None:
    with explained(path):
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _stale(folder: Path, wanted: set[str]) -> list[Path]:
    """Generated pages without a record, with their CSV; pages that a person wrote are left alone."""
    pages = [path for path in folder.glob("*.md") if path.name not in wanted and (_read(path) or "").startswith(MARK)]
    return sorted([*pages, *(path.with_suffix(".csv") for path in pages if path.with_suffix(".csv").is_file())])
