"""Which files and functions of the harness a call passes, as the interpreter itself reports it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import harness

PACKAGE = str(Path(harness.__file__).parent)


@dataclass
class Trace:
    """What one stretch of a program passed.

    Attributes:
        functions: file within the package -> names of the functions; bodies of modules and classes, comprehensions and
            lambdas are parts of the function around them, as Python 3.12 has it.
    """

    functions: dict[str, set[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Says what was counted, for the message of a test that fails."""
        count = sum(map(len, self.functions.values()))
        lines = [f"{name}: {', '.join(sorted(of))}" for name, of in sorted(self.functions.items())]
        return "\n".join([f"{len(self.functions)} files, {count} functions", *lines])


@contextmanager
def traced(stretches: Mapping[str, Callable[..., Any]]) -> Iterator[dict[str, Trace]]:
    """Follows this thread; what happens within a call of a named function counts for its stretch.

    Args:
        stretches: name -> the function at its root; "a" and "a.b" are two roots of one stretch.
    """
    roots = {inspect.unwrap(function).__code__: name.split(".")[0] for name, function in stretches.items()}
    traces = {name: Trace() for name in roots.values()}
    open_: list[tuple[FrameType, str]] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            if code in roots:
                open_.append((frame, roots[code]))
            if open_:
                _count(traces[open_[-1][1]], code)
        elif event == "return" and open_ and open_[-1][0] is frame:
            open_.pop()

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield traces
    finally:
        sys.setprofile(before)


def _count(trace: Trace, code: CodeType) -> None:
    is_class_body = not code.co_flags & inspect.CO_OPTIMIZED
    if code.co_name.startswith("<") or is_class_body:
        return
    name = str(Path(code.co_filename).relative_to(PACKAGE))
    trace.functions.setdefault(name, set()).add(
        code.co_qualname if sys.version_info >= (3, 11) else f"{code.co_name}:{code.co_firstlineno}"
    )
