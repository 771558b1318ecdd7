"""What `ls runs` lists: the runs below a folder, what each is about and how far it came."""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from harness.errors import UserError
from harness.records.journal import RECORD, load_run, read_record
from harness.records.schema import RunRecord, Sample

FOLDER = Path("runs")
_WIDTH = 80
_LOCK = ".lock"


def runs(folder: Path) -> list[str]:
    """Lists the runs in a folder, the newest first.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir() and folder != FOLDER:
        raise UserError(f"{folder} is no folder; runs are in {FOLDER}/ unless --output_path said otherwise.")
    found = {path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{RECORD}")}
    if not found:
        return [f"No run in {folder}."]
    told = sorted((_told(path) for path in found), key=lambda pair: pair[0], reverse=True)
    return [line for _, lines in told for line in lines]


def _told(path: Path) -> tuple[str, list[str]]:
    """When a run started, and its lines."""
    try:
        record = read_record(path)
        state = state_of(path, record)
    except UserError as error:
        return "", [str(path), fill(f"unreadable: {error}", _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    receiver = next((model.reference for model in record.models if model.role == "receiver"), "")
    tasks = ", ".join(map(str, record.config.get("tasks", [])))
    about = f"{tasks}; receiver {receiver or record.config.get('receiver')}"
    when = record.started_at[:16].replace("T", " ")
    lines = [f"{path}  {record.run_id}" if record.run_id != path.name else str(path)]
    lines += [fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ") for text in (f"{when}  {state}", about)]
    return record.started_at, lines


def state_of(path: Path, record: RunRecord) -> str:
    """Says how far a run came, and whether anything still works at it."""
    asked = _asked(path)
    if record.status == "success":
        return f"finished: {asked} questions"
    word = "running" if _held(path) else "failed" if record.status == "error" else "stopped"
    samples = load_run(path).samples
    reason = f" ({record.error.message.splitlines()[0][:80]})" if word == "failed" and record.error else ""
    return f"{word}: {_through_all(record, samples)} of {asked} questions through all channels{reason}"


def _asked(path: Path) -> int:
    from harness.report.sidecar import SIDECAR  # brings pandas, which most lists do without

    sidecar = path / SIDECAR
    if not sidecar.is_file():
        return 0
    with sidecar.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _through_all(record: RunRecord, samples: list[Sample]) -> int:
    """Questions that every channel has answered, of those that ask models; others are computed when a run ends."""
    answered = defaultdict(set)
    for sample in samples:
        if sample.done and not sample.control:
            answered[sample.channel].add((sample.task, sample.doc_id))
    channels = list(_asking(record)) or list(answered)
    return len(set.intersection(*(answered[name] for name in channels))) if channels else 0


def _asking(record: RunRecord) -> Iterator[str]:
    from harness.results.grouping import entry_of

    for name in record.config.get("channels", []):
        entry = entry_of(name)
        if entry is None or not entry.compose:
            yield name


def _held(path: Path) -> bool:
    """Whether a process writes to the run now."""
    try:
        fd = os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
