"""What a piece of work asked of the models, call by call, for whoever wants to know what it must cost at least.

Forward calls and fusions report themselves; nothing is kept unless a log is open in this thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.fusion.interface import FuserModule
    from harness.models import LM


@dataclass(frozen=True, eq=False)
class ForwardCall:
    """One call of a model: `rows` sequences read `new` tokens behind `past`, and the last `logits` are projected."""

    lm: LM
    rows: int
    new: int
    past: int
    logits: int


@dataclass(frozen=True, eq=False)
class FusionCall:
    """One fusion: `tokens` tokens through some entries of a fuser."""

    fuser: FuserModule
    entries: tuple[int, ...]
    tokens: int


Call = ForwardCall | FusionCall
_LOG: ContextVar[Callable[[Call], None] | None] = ContextVar("log", default=None)


def report(call: Call) -> None:
    """Adds a call to the open log, if there is one."""
    log = _LOG.get()
    if log is not None:
        log(call)


@contextmanager
def logged(log: Callable[[Call], None]) -> Iterator[None]:
    """While it is open, every call of this thread is handed to `log`."""
    token = _LOG.set(log)
    try:
        yield
    finally:
        _LOG.reset(token)
