"""One run a folder: a second one is refused instead of mixing its lines with ours.

A run of several processes takes the lock as one does, then shares it among its own; a newcomer is refused until the
last of them has ended. The kernel drops the lock when the process ends, however it ends, so no stale lock ever needs
to be removed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from harness.errors import UserError
from harness.records.files import explained

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
            shared: for a further process of the run that has called `share`.

        Raises:
            UserError: if another process writes to this folder, or it cannot be written.
        """
        path = folder / LOCK_NAME
        with explained(path):
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


def share(fd: int) -> None:
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
