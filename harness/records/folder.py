"""The folder of a run, which one run at a time may write to.

A second run is refused, so lines of two runs never mix. A run of several processes takes the lock as one does, then
shares it among them; others are refused until the last process has ended. The kernel drops the lock when the process
ends, however it ends, so no stale lock ever needs to be removed.

The first process owns the folder; each further one appends to a journal of its own, which is merged when the run ends
well. Guarantees that `run.json` always holds one whole `RunRecord`, and that a journalled sample is in one journal or
another at every moment. The status is true as far as the process lived: a run that was killed, or had no room left to
write its end, stays `started`.
"""

from __future__ import annotations

import fcntl
import os
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from harness.errors import RunError, UserError
from harness.records.files import explaining, sync_folder, write_atomic
from harness.records.journal import (
    RECORD,
    SAMPLES,
    TIMINGS,
    Journal,
    channels_of,
    encode,
    is_run,
    latest_samples,
    rank_journal,
    rank_journals,
    read_rank_journals,
    read_record,
    without_nonfinite,
)
from harness.records.schema import Failure, RunRecord, Sample, Status, Timing

LOCK_NAME = ".lock"


class Held:
    """The lock on a folder while the block runs, and after it where `keep` was called.

    Attributes:
        fd: the open file that holds the lock; closing it unlocks.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        """Takes the lock.

        Args:
            folder: what is locked.
            shared: for a further process of the run that has called `share_lock`.

        Raises:
            UserError: if another process writes to this folder, or it cannot be written.
        """
        path = folder / LOCK_NAME
        with explaining(path):
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._kept = False
            try:
                _lock(self.fd, folder, shared)
            except BaseException:
                os.close(self.fd)
                raise

    def keep(self) -> None:
        """Leaves the lock to whoever closes `fd`."""
        self._kept = True

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            os.close(self.fd)


def share_lock(fd: int) -> None:
    """Lets further processes of this run take the lock with `shared`."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def _lock(fd: int, folder: Path, shared: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "of unknown number"
        raise UserError(
            f"{folder} is in use by another process ({holder}); wait for it or choose another --output_path."
        ) from error
    if shared:
        return
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def now_iso() -> str:
    """Returns the time as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe_failure(error: BaseException) -> Failure:
    """Describes an exception for the record."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Failure(type=type(error).__name__, message=str(error), trace=trace)


class RunFolder:
    """An open run; use it as a context manager.

    Leaving the block by an exception records the run as `error`, or as `cancelled` for an interrupt.

    Attributes:
        path: the folder.
        record: what `run.json` says now.
        samples: what earlier sessions of this run answered, one a question and arm.
        warnings: what was wrong with the journals when they were opened.
    """

    def __init__(self, path: Path, record: RunRecord, held: int) -> None:
        """Opens the journals of a folder that is locked already; use `create` or `open`."""
        self.path, self.record, self._lock = path, record, held
        channels = channels_of(record)
        self._samples = Journal(path / SAMPLES, Sample, channels)
        self._timings = Journal(path / TIMINGS, Timing, channels)
        others = read_rank_journals(path, channels)
        self.samples = latest_samples(map(without_nonfinite, [*self._samples.found, *others.records]))
        self.warnings = [*self._samples.warnings, *others.warnings, *self._timings.warnings]

    @classmethod
    def create(cls, path: Path, record: RunRecord) -> RunFolder:
        """Starts a run in a folder that holds none yet.

        Raises:
            UserError: if the folder holds a run, is in use or cannot be written.
        """
        with explaining(path):
            path.mkdir(parents=True, exist_ok=True)
        with Held(path) as held:
            refuse_taken(path)
            folder = cls(path, record, held.fd)
            folder.update(record)
            held.keep()
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Continues the run in `path`.

        Raises:
            UserError: if there is no run, it is in use, cannot be written or is broken.
        """
        read_record(path)  # refused before the lock leaves a file in a folder that is not ours
        with Held(path) as held:
            folder = cls(path, read_record(path), held.fd)
            held.keep()
        return folder

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Journals a batch; a sample whose numbers are not finite is written as an error.

        Raises:
            RunError: if the disk is full or failing.
        """
        self._samples.append(map(without_nonfinite, samples))

    def admit(self) -> None:
        """Lets further processes of this run open a `RankFolder` here."""
        share_lock(self._lock)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Makes these the folder's samples, in this order, and drops every journal of a further process.

        They have to be all there are; none may be added afterwards.

        Raises:
            RunError: if the disk is full or failing; every sample is then still in a journal.
        """
        self._samples.close()
        write_atomic(self.path / SAMPLES, b"".join(map(encode, samples)))
        with explaining(self.path):
            for path in rank_journals(self.path):
                path.unlink()
            sync_folder(self.path)

    def add_timings(self, timings: Iterable[Timing]) -> None:
        """Journals timings.

        Raises:
            RunError: if the disk is full or failing.
        """
        self._timings.append(timings)

    def clear_timings(self) -> None:
        """Drops every timing.

        Raises:
            RunError: if the disk is failing.
        """
        self._timings.clear()

    def update(self, record: RunRecord) -> None:
        """Replaces `run.json` in one step.

        Raises:
            RunError: if the disk is full or failing.
        """
        checked = RunRecord.model_validate(record.model_dump())
        write_atomic(self.path / RECORD, encode(checked, indent=2))
        self.record = checked

    def finish(self, status: Status, error: Failure | None = None) -> RunRecord:
        """Records how the run ended, closes the folder and returns the final record."""
        try:
            self.update(self.record.model_copy(update={"status": status, "finished_at": now_iso(), "error": error}))
        finally:
            self.close()
        return self.record

    def close(self) -> None:
        """Closes the files and gives the folder free; a second call does nothing."""
        self._samples.close()
        self._timings.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._lock >= 0:
            cancelled = isinstance(error, KeyboardInterrupt)
            with suppress(RunError, UserError):  # on a full disk the first error is the one to tell
                self.finish("cancelled" if cancelled else "error", describe_failure(error))
        self.close()


class RankFolder:
    """A run's folder as a further process of it writes there; use it as a context manager."""

    def __init__(self, path: Path, rank: int, run_id: str) -> None:
        """Opens the journal of process `rank` in the folder that the first one has opened and shares.

        Raises:
            UserError: if this process does not see that folder, or cannot write there.
        """
        if not is_run(path) or read_record(path).run_id != run_id:
            raise UserError(f"{path} is not visible here; choose an --output_path on a disk that all nodes share.")
        with Held(path, shared=True) as held:
            self._samples = Journal(rank_journal(path, rank), Sample)
            held.keep()
        self.path, self._lock = path, held.fd

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Journals a batch, see `RunFolder.add_samples`.

        Raises:
            RunError: if the disk is full or failing.
        """
        self._samples.append(map(without_nonfinite, samples))

    def __enter__(self) -> RankFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._samples.close()
        os.close(self._lock)


def refuse_taken(path: Path) -> None:
    """Refuses a folder that holds a run.

    One left by a process that died before it wrote `run.json` is free again; answers never are lost.

    Raises:
        UserError: the folder is taken.
    """
    if is_run(path):
        raise UserError(f"{path} already holds a run; add --resume to continue it or choose another folder.")
    journals = (path / SAMPLES, *(rank_journals(path) if path.is_dir() else ()), path / TIMINGS)
    if any(file.exists() and file.stat().st_size > 0 for file in journals):
        raise UserError(f"{path} has answers, but no {RECORD}; restore it or choose another folder.")
