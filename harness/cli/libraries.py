"""Reading the libraries of models without walking what has been read."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports with the garbage collector off, and keeps it off what was imported.

    The libraries make a million objects that stay until the end; the collector would walk them again and again, a third
    of the CPU time of a run of few questions. A process that has read them before is left as it is.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
