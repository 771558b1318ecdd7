"""Why a row of the training data is left out: a closed list, so that every process counts alike.

Guarantees that no row is left out without a reason, and that one row which cannot be used never ends a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from harness.errors import UserError


class Reason(Enum):
    """What is wrong with a row; the value completes "3 rows left out: 3 ..."."""

    NO_ANSWER = "without an answer to learn"
    ROLE = "with a role that is not known"
    CONTENT = "with content that is no text"
    WEIGHT = "with a weight other than 0 and 1"
    CALL = "with a tool or a tool call that cannot be read"
    SYSTEM = "with two different system prompts"
    CHARACTER = "with half a character"
    TEMPLATE = "refused by a chat template"
    PARTS = "with parts that a chat template does not write"
    LABELS = "whose labels do not decode to the response"
    TOO_LONG = "with a prompt that leaves no room for the response"
    WHOLE_TOO_LONG = "longer than the limit as a whole"
    UNFUSED = "without a token to fuse"


class LeftOut(UserError):
    """A row cannot be learned from; the run goes on without it and counts it.

    Attributes:
        reason: under which it is counted.
    """

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def counted(reasons: Iterable[Reason]) -> list[int]:
    """How often each reason was given, in the order of `Reason`."""
    given = list(reasons)
    return [given.count(reason) for reason in Reason]


def summary(counts: Mapping[str, int]) -> str:
    """Says how many rows were left out for which reasons.

    Args:
        counts: rows by the name of their reason.
    """
    parts = [f"{counts[reason.name]} {reason.value}" for reason in Reason if counts.get(reason.name)]
    return f"{sum(counts.values())} rows left out: {', '.join(parts)}"
