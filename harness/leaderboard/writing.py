"""Writes the pages, and says which of them are not what the records give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.leaderboard.locking import writing_lock
from harness.leaderboard.pages import MARK, Rendered, own_page, render
from harness.leaderboard.pictures import THEMES, draw, drawn_data
from harness.leaderboard.record_format import (
    ABSENT,
    BoardRecord,
    Entry,
    board_record,
    entry_of,
    read_record,
    read_records,
    serialised,
)
from harness.leaderboard.reported.board import ReportedBoard
from harness.leaderboard.reported.reading import read_reported
from harness.leaderboard.rows import published_frame
from harness.records.files import explaining, file_name, write_atomic
from harness.records.journal import RECORD, load_run
from harness.results.formatting import arm_text

OWN_PAGE = "leaderboard.md"


def add_record(leaderboards_dir: Path, run_folder: Path) -> Path:
    """Writes the record of a finished run into a board's folder and returns its path; the pages stay as they are.

    A record that is there already is replaced by the same run alone, for instance after a resume, and never by one
    with fewer answers.

    Raises:
        UserError: if the folder holds no finished run, the board cannot be written, another run has the same id, or the
            record that is there holds arms or answers that the run lacks.
    """
    record = board_record(load_run(run_folder))
    path = leaderboards_dir / "records" / f"{file_name(record.run.run_id)}.json"
    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with writing_lock(leaderboards_dir):
        if path.exists():
            _refuse_loss(path, read_record(path).record, record)
        write_atomic(path, serialised(record))
    return path


def write(leaderboards_dir: Path) -> list[Path]:
    """Generates every page from `records/`, removes generated ones that no record needs, and returns what changed.

    Raises:
        UserError: if a record is broken or the folder cannot be written.
    """
    with explaining(leaderboards_dir):
        leaderboards_dir.mkdir(parents=True, exist_ok=True)
    with writing_lock(leaderboards_dir):
        return _pages_written(leaderboards_dir)


def write_own(run_folder: Path) -> Path:
    """Writes a finished run's own leaderboard page into its folder and returns the path.

    Raises:
        UserError: if the folder holds no finished run, or cannot be written.
    """
    path = run_folder / OWN_PAGE
    write_atomic(path, own_page(entry_of(path.name, board_record(load_run(run_folder)))))
    return path


def _pages_written(leaderboards_dir: Path) -> list[Path]:
    rendered = _rendered(leaderboards_dir, read_records(leaderboards_dir))
    changed = _differing(leaderboards_dir, rendered)
    stale = _stale(leaderboards_dir, rendered)
    with explaining(leaderboards_dir):
        for path in stale:
            path.unlink()
    for name in changed:
        in_text = rendered.texts.get(name)
        write_atomic(leaderboards_dir / name, draw(*reversed(rendered.pictures[name])) if in_text is None else in_text)
    return sorted([*(leaderboards_dir / name for name in changed), *stale])


def _rendered(leaderboards_dir: Path, entries: Sequence[Entry]) -> Rendered:
    return render(entries, ReportedBoard(read_reported(leaderboards_dir)), published_frame(leaderboards_dir))


def check(leaderboards_dir: Path) -> list[str]:
    """Returns the names of pages and records that differ from what the records' questions give, sorted.

    Raises:
        UserError: if there is no such folder or a record is broken.
    """
    if not leaderboards_dir.is_dir():
        raise UserError(f"{leaderboards_dir} is no folder; name the leaderboards folder or write the boards first.")
    entries = read_records(leaderboards_dir)
    rendered = _rendered(leaderboards_dir, entries)
    differing = _differing(leaderboards_dir, rendered)
    differing += [path.name for path in _stale(leaderboards_dir, rendered)]
    return sorted([*differing, *(f"records/{entry.name}" for entry in entries if not entry.consistent)])


def _refuse_loss(path: Path, there: BoardRecord, new: BoardRecord) -> None:
    if not _same_run(there, new):
        raise UserError(
            f"{path} holds another run with the id {new.run.run_id!r}, which stays; give one of the two another "
            f"run_id in its {RECORD}."
        )
    before, after = _asked(there), _asked(new)
    lost = [name for name, count in before.items() if after.get(name, 0) < count]
    if lost:
        raise UserError(
            f"{path} holds answers that this run lacks ({', '.join(lost)}) and stays; add the whole run, or delete "
            "that file first."
        )


def _asked(record: BoardRecord) -> dict[str, int]:
    """Task and arm -> questions that it was asked."""
    return {
        f"{one.task} {arm_text(one.channel, one.control)}": len(one.marks) - one.marks.count(ABSENT)
        for one in record.answers
    }


def _same_run(there: BoardRecord, new: BoardRecord) -> bool:
    """Ids were once given by the second, so that an id alone does not say which run it was."""
    one, other = there.run, new.run
    if (one.run_id, one.identity) != (other.run_id, other.identity):
        return False
    same_session = (one.started_at, one.finished_at) == (other.started_at, other.finished_at)
    return other.resumed > 0 or (same_session and _agree(there, new))


def _agree(there: BoardRecord, new: BoardRecord) -> bool:
    """Whether no arm that both have was answered otherwise."""
    ours = {(one.task, one.channel, one.control): one for one in there.answers}
    common = [(one, ours[key]) for one in new.answers if (key := (one.task, one.channel, one.control)) in ours]
    return bool(common) and all(one == other for one, other in common if len(one.marks) == len(other.marks))


def _read(path: Path) -> str | None:
    with explaining(path):
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _differing(folder: Path, rendered: Rendered) -> list[str]:
    """Files that are not what the records give; of a picture the data inside is compared, never its bytes."""
    texts = [name for name, text in rendered.texts.items() if _read(folder / name) != text]
    pictures = rendered.pictures.items()
    return texts + [name for name, (_, data) in pictures if drawn_data(_read(folder / name) or "") != data]


def _stale(folder: Path, rendered: Rendered) -> list[Path]:
    """Generated pages without a record, with their CSV and pictures; pages that a person wrote are left alone."""
    wanted = {*rendered.texts, *rendered.pictures}
    pages = [path for path in folder.glob("*.md") if path.name not in wanted and (_read(path) or "").startswith(MARK)]
    endings = (".csv", *(f"-{theme}.svg" for theme in THEMES))
    beside = [path.with_name(f"{path.stem}{ending}") for path in pages for ending in endings]
    return sorted([*pages, *(path for path in beside if path.is_file() and path.name not in wanted)])
