"""One writer a board: pages are made from all records."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.records.files import explaining


@contextmanager
def writing_lock(folder: Path) -> Iterator[None]:
    """Waits for other processes that write to this board."""
    with explaining(folder):
        fd = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
