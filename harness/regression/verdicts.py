"""The words of a check: options, verdicts and the report whose exit code a build obeys.

A regression outweighs everything, so that runs that cannot be compared in one thing never hide a loss in another. What
is excused is said and fails nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.errors import UserError
from harness.results.formatting import p_text

Status = Literal["regression", "not comparable", "not shown", "warning", "better", "no worse", "same"]
ORDER: tuple[Status, ...] = ("regression", "not comparable", "not shown", "warning", "better", "no worse", "same")
FailOn = Literal["regression", "not-shown"]

SAME_OR_BETTER = 0
REGRESSION = 1
NOT_COMPARABLE = 2
NOT_SHOWN = 3
FAILING: dict[Status, int] = {"regression": REGRESSION, "not comparable": NOT_COMPARABLE, "not shown": NOT_SHOWN}


@dataclass(frozen=True)
class Options:
    """What counts as worse.

    Attributes:
        margin_points: Percentage points of accuracy: a smaller difference counts as the same, and only a greater loss
            as a regression.
        latency_ratio: Ratio of medians (run / baseline) above which a run may be called slower.
        latency: Whether seconds are compared at all.
        exact: Whether equal identities must give equal answers and counts.
        alpha: Chance of a false alarm over the whole family of accuracy tests.
        latency_alpha: Two-sided level of each rank test of seconds.
        level: Confidence of each of the two one-sided tests that show a difference to be within the margin.
        fail_on: The least that fails a build: `regression`, or `not-shown` for what is not shown to be the same either.
            None: the latter, unless nothing differs between the two runs but how numbers are rounded.

    Raises:
        UserError: A margin below zero or a ratio not above one.
    """

    margin_points: float = 1.0
    latency_ratio: float = 1.05
    latency: bool = True
    exact: bool = True
    alpha: float = 0.025
    latency_alpha: float = 0.002
    level: float = 0.95
    fail_on: FailOn | None = None

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
        excused: Whether it is said and fails nothing.
    """

    status: Status
    check: str
    subject: str
    text: str
    excused: bool = False

    @property
    def failing(self) -> bool:
        """Whether a build fails by it."""
        return self.status in FAILING and not self.excused

    @property
    def line(self) -> str:
        """The verdict as it is printed."""
        return f"{self.status.upper():<14} {self.check:<9} {self.subject}{': ' if self.subject else ''}{self.text}"


@dataclass(frozen=True)
class Report:
    """Every verdict of one check, the gravest first.

    Attributes:
        differs: What differs between the two runs, in a sentence; empty where it was not looked at.
    """

    verdicts: tuple[Verdict, ...]
    differs: str = ""

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], differs: str = "") -> Report:
        """Sorts by gravity; verdicts of one status keep their order."""
        return cls(tuple(sorted(verdicts, key=lambda verdict: ORDER.index(verdict.status))), differs)

    def count(self, status: Status) -> int:
        """Returns how many verdicts have a status."""
        return sum(verdict.status == status for verdict in self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 same or better, 1 regression, 2 not comparable (also when nothing was compared), 3 not shown."""
        codes = [FAILING[verdict.status] for verdict in self.verdicts if verdict.failing]
        if codes:
            return min(codes)
        return SAME_OR_BETTER if self._compared else NOT_COMPARABLE

    @property
    def _compared(self) -> bool:
        return any(verdict.status != "not comparable" for verdict in self.verdicts)

    @property
    def headline(self) -> str:
        """The whole report in one sentence."""
        words = ("Same or better", "Regression", "Not comparable", "Not shown to be the same")[self.exit_code]
        if self.exit_code == SAME_OR_BETTER and self.count("not shown"):
            words = "No regression seen, but not all shown to be the same"
        counts = ", ".join(_counted(self.count(status), status) for status in ORDER if self.count(status))
        return f"{words}: {counts or 'nothing was compared'}."


def _counted(count: int, status: Status) -> str:
    plural = count > 1 and status in ("regression", "warning")
    return f"{count} {status}{'s' if plural else ''}"


def p_words(p: float) -> str:
    """Writes a p-value as a statement, ``p = 0.014`` or ``p < 0.001``."""
    text = p_text(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"
