"""What goes wrong, and for which requests."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Base of the faults.

    Attributes:
        pattern: glob on the path of the request without its leading slash; `*` matches `/` as well.
        method: HEAD or GET; empty = both.
    """

    pattern: str = "*"
    method: str = ""

    def concerns(self, method: str, path: str) -> bool:
        """Whether a request meets this fault."""
        return self.method in ("", method) and fnmatch.fnmatchcase(path, self.pattern)


@dataclass(frozen=True)
class Status(Fault):
    """An answer with an HTTP status that is no success, and the hub's own name of the error."""

    status: int = 503
    code: str = ""


@dataclass(frozen=True)
class Drop(Fault):
    """The connection is closed without an answer."""


@dataclass(frozen=True)
class Truncate(Fault):
    """A body ends after so many bytes, although its length was announced in full."""

    length: int = 0


@dataclass(frozen=True)
class OtherCommit(Fault):
    """Another commit is served than was asked for; the answer's headers say so."""

    commit: str = ""
