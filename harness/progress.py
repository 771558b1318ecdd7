"""Progress: a bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import functools
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_EVERY_S = 15.0
_NEVER_S = 1e9


class Progress(Protocol):
    """Counts steps of a stretch of work."""

    def advance(self, steps: int = 1) -> None:
        """Adds finished steps."""

    def entitle(self, title: str) -> None:
        """Says what the next steps are about."""


class _Lines:
    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit, self.done = title, total, f" {unit}" if unit else "", 0
        self.began = self.told = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.told >= _EVERY_S:
            self.told = now
            rate = self.done / (now - self.began)
            left_s = max(self.total - self.done, 0) / rate  # a process's share is known about
            print(
                f"{self.title}: {self.done}/{self.total}{self.unit}, {rate:.1f}/s, {left_s:.0f} s left", file=sys.stderr
            )

    def entitle(self, title: str) -> None:
        self.title = title


class Silent:
    """Shows nothing."""

    def advance(self, steps: int = 1) -> None:
        """Does nothing."""

    def entitle(self, title: str) -> None:
        """Does nothing."""


@contextmanager
def progress(title: str, total: int, shown: bool = True, unit: str = "") -> Iterator[Progress]:
    """Shows progress on standard error while the block runs.

    Args:
        title: what is going on.
        total: steps of all.
        shown: otherwise nothing is.
        unit: what the steps count, where the title does not say it.
    """
    if not shown or total == 0:
        yield Silent()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        counted = (MofNCompleteColumn(), *([TextColumn(unit)] if unit else []))
        columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            yield _Bar(bar, task)
    else:
        yield _Lines(title, total, unit)


@contextmanager
def other_bars_hidden() -> Iterator[None]:
    """Hides the bars of libraries while the block runs: one is enough, and it is ours.

    They go on counting, because a library may divide by the seconds of its bar, as vLLM does; those of a disabled bar
    are 0. So nothing is disabled, not even where the environment asks for it: the bars never become due.
    """
    from tqdm.std import tqdm

    usual = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(usual, disable=False, delay=_NEVER_S)
    try:
        yield
    finally:
        tqdm.__init__ = usual


@contextmanager
def stage(title: str, shown: bool = True) -> Iterator[None]:
    """Says on a terminal what is going on where nothing can be counted; elsewhere nothing."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


@contextmanager
def readers_silent() -> Iterator[None]:
    """Hides what readers of files log before they fail, while the block runs: one sentence says it."""
    logger = logging.getLogger("datasets.packaged_modules")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """What a command does to a process that is its own: libraries are silent and show no bars beside ours."""
    from transformers.utils import logging as theirs

    verbosity, shown = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with task_hints_hidden(), readers_silent(), other_bars_hidden(), warnings.catch_warnings():
            # peft tells of names and versions that are of no concern here, and asks transformers by an old name.
            warnings.filterwarnings("ignore", module=r"peft\b")
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if shown:
            theirs.enable_progress_bar()


class _Bar:
    def __init__(self, bar: Bar, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def advance(self, steps: int = 1) -> None:
        self.bar.advance(self.task, steps)

    def entitle(self, title: str) -> None:
        self.bar.update(self.task, description=title)


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
