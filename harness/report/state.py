"""How far a run came: finished, running, stopped or failed, and why."""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

from harness.records.journal import LoadedRun, load_run
from harness.records.schema import RunRecord, Sample
from harness.results.grouping import entry_of

_LOCK = ".lock"
_MOST_LETTERS = 160


def unfinished(run: LoadedRun) -> str:
    """Says that what is shown of a run is of a part of it; "" of one that has finished."""
    if run.record.status == "success":
        return ""
    return f"{run.path} has not finished ({state_of(run.path, run.record)}): what follows is of a part of it."


def state_of(path: Path, record: RunRecord) -> str:
    """Says how far a run came, and whether anything still works at it."""
    asked = _asked(path)
    if record.status == "success":
        return f"finished: {asked} questions"
    word = "running" if _held(path) else "failed" if record.status == "error" else "stopped"
    samples = load_run(path).samples
    why = shorten(record.error.message, _MOST_LETTERS, placeholder=" ...") if word == "failed" and record.error else ""
    reason = f" ({why})" if why else ""
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
