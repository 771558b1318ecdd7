"""The words of a check: options, verdicts and the report whose exit code a build obeys.

A regression outweighs everything, so that an incomparable latency never hides a worse accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.errors import UserError
from harness.results.wording import p_text

Status = Literal["regression", "not comparable", "warning", "better", "same"]
ORDER: tuple[Status, ...] = ("regression", "not comparable", "warning", "better", "same")

SAME_OR_BETTER = 0
REGRESSION = 1
NOT_COMPARABLE = 2


@dataclass(frozen=True)
class Options:
    """What counts as worse.

    Attributes:
        margin_points: Percentage points of accuracy that a run may lose without being called a regression.
        latency_ratio: Ratio of medians (run / baseline) above which a run may be called slower.
        latency: Whether seconds are compared at all; off for a baseline that was measured in another job.
        exact: Whether equal identities must give equal answers and counts.
        alpha: Chance of a false alarm over the whole family of accuracy tests.
        latency_alpha: Two-sided level of each rank test of seconds.
        level: One-sided confidence of the bound on what could hide.

    Raises:
        UserError: A margin below zero or a ratio not above one.
    """

    margin_points: float = 1.0
    latency_ratio: float = 1.05
    latency: bool = True
    exact: bool = True
    alpha: float = 0.02
    latency_alpha: float = 0.002
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.margin_points < 100:
            raise UserError(f"--margin is {self.margin_points}; it must be from 0 to below 100 percentage points.")
        if not (self.latency_ratio > 1 and math.isfinite(self.latency_ratio)):
            raise UserError(f"--latency-ratio is {self.latency_ratio}; it must be above 1, such as 1.05 for 5% slower.")

    @property
    def margin(self) -> float:
        """The margin as a share of the questions."""
        return self.margin_points / 100


@dataclass(frozen=True)
class Verdict:
    """One line: what was checked, where, and what came out.

    Attributes:
        status: What it means for the build.
        check: accuracy, answers, arms, counts, errors, invalid, latency, questions or runs.
        subject: Task and arm, such as ``openbookqa c2c/mean``; empty for the run as a whole.
        text: The finding with its figures.
    """

    status: Status
    check: str
    subject: str
    text: str

    @property
    def line(self) -> str:
        """The verdict as it is printed."""
        return f"{self.status.upper():<14} {self.check:<9} {self.subject}{': ' if self.subject else ''}{self.text}"


@dataclass(frozen=True)
class Report:
    """Every verdict of one check, the gravest first."""

    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Report:
        """Sorts by gravity; verdicts of one status keep their order."""
        return cls(tuple(sorted(verdicts, key=lambda verdict: ORDER.index(verdict.status))))

    def count(self, status: Status) -> int:
        """Returns how many verdicts have a status."""
        return sum(verdict.status == status for verdict in self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 same or better, 1 regression, 2 not comparable (also when nothing was compared)."""
        if self.count("regression"):
            return REGRESSION
        if self.count("not comparable") or not self.verdicts:
            return NOT_COMPARABLE
        return SAME_OR_BETTER

    @property
    def headline(self) -> str:
        """The whole report in one sentence."""
        words = ("Same or better", "Regression", "Not comparable")[self.exit_code]
        counts = ", ".join(_counted(self.count(status), status) for status in ORDER if self.count(status))
        return f"{words}: {counts or 'nothing was compared'}."


def _counted(count: int, status: Status) -> str:
    plural = count > 1 and status in ("regression", "warning")
    return f"{count} {status}{'s' if plural else ''}"


def p_words(p: float) -> str:
    """Writes a p-value as a statement, ``p = 0.014`` or ``p < 0.001``."""
    text = p_text(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"
