"""Trains receiver and sharer at the same time, one process each, with their progress in one place.

Guarantees that a failure of either reaches the caller as the one sentence it was raised with.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.demo.recipe import Outcome, Progress
from harness.demo.world import RECEIVER, SHARER
from harness.errors import RunError

REPORT_EVERY_STEPS = 20
Member = Callable[[str, int, Path, Any, Progress], list[Outcome]]
"""Trains the receiver or the sharer: name, seed, folder to save to, recipe, progress; a function of a module."""
_events: Any = None


def train_models(member: Member, seed: int, out: Path, progress: Progress, recipe: Any) -> dict[str, list[Outcome]]:
    """Trains both models and saves them to ``receiver`` and ``sharer`` in ``out``.

    Raises:
        RunError: if a model does not learn its facts, or a training process dies.
    """
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    with ProcessPoolExecutor(2, mp_context=context, initializer=_connect, initargs=(events,)) as pool:
        futures = {name: pool.submit(_reporting, member, name, seed, out / name, recipe) for name in (RECEIVER, SHARER)}
        _follow(list(futures.values()), events, progress)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool as error:
            raise RunError("A training process died, most likely for want of memory; nothing was finished.") from error


def _reporting(member: Member, name: str, seed: int, folder: Path, recipe: Any) -> list[Outcome]:
    def tell(phase: str, step: int, steps: int, loss: float) -> None:
        if step % REPORT_EVERY_STEPS == 0:
            _events.put((f"{name} {phase}", step, steps, loss))

    return member(name, seed, folder, recipe, tell)


def _connect(events: Any) -> None:
    global _events  # noqa: PLW0603 - a pool hands a queue to its workers in no other way
    _events = events


def _follow(futures: Sequence[Future[Any]], events: Any, progress: Progress) -> None:
    while not all(future.done() for future in futures):
        with suppress(queue.Empty):
            progress(*events.get(timeout=0.2))
