"""What a command changes in its process while it lasts, and gives back when it ends; a run itself changes nothing.

Guarantees that two runs in one process, one after another or in two threads, answer and record what each would in a
process of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.memory import forget_peak
from harness.progress import other_bars_hidden

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other thread runs the block; inside it peak memory counts anew.

    While transformers loads a model it changes torch's default number format for the whole process, and two runs at
    once would each time the other.
    """
    with _ONE_AT_A_TIME:
        forget_peak()
        yield


@contextmanager
def owned() -> Iterator[None]:
    """What a command does to the process that is its own: the libraries are silent and SIGTERM cancels.

    `harness.runner.run` does nothing of it: in a caller's process logging, bars, warnings and signals are the caller's.
    """
    with _ONE_AT_A_TIME, _quiet(), other_bars_hidden(), sigterm_as_interrupt():
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
def task_hints_hidden() -> Iterator[None]:
    """Drops the hint about ``--metadata`` that lm-eval logs for every task that loads its own data: 57 a benchmark."""

    def no_hint(record: logging.LogRecord) -> bool:
        return "Custom kwargs can be passed" not in record.getMessage()

    logger = logging.getLogger("lm_eval.api.task")
    logger.addFilter(no_hint)
    try:
        yield
    finally:
        logger.removeFilter(no_hint)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging as theirs

    verbosity, shown = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with task_hints_hidden(), warnings.catch_warnings():
            # peft tells of names and versions that are of no concern here.
            warnings.filterwarnings("ignore", module=r"peft\b")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if shown:
            theirs.enable_progress_bar()
