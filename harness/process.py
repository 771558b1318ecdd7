"""What a run changes in its process while it lasts, and gives back when it ends.

Guarantees that two runs in one process, one after another or in two threads, answer and record what each would in a
process of its own.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.memory import forget_peak
from harness.progress import other_bars_hidden

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other thread runs the block; inside it the libraries are silent and peak memory counts anew.

    While transformers loads a model it changes torch's default number format for the whole process, and two runs at
    once would each time the other.
    """
    with _ONE_AT_A_TIME, _quiet(), other_bars_hidden():
        forget_peak()
        yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets variables that the environment does not set, for the time of the block."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt; nothing outside the main thread, the only one that may set handlers."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        # A handler that was not set from Python reads as None and cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
