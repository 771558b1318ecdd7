"""`*_summary.json` of the evaluator released with Cache-to-Cache: accuracies over all questions and by subject."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.imported.tables import json_object, text_of

NEEDED = ("overall_accuracy", "subjects", "length_statistics")
ENDING, ROWS_ENDING = "_summary.json", "_cot.csv"
_CLOSE = 1e-9
_PARTS = ("subjects", "subcategories")  # of length_statistics, which alone say how many questions there were


@dataclass(frozen=True)
class Summary:
    """Counts of a summary.

    Attributes:
        right: right answers over all questions.
        n: questions.
        shares: subject, or part of a data set without subjects -> accuracy.
    """

    place: str
    right: int
    n: int
    shares: Mapping[str, float]


def summary_beside(rows: Path) -> Path | None:
    """Returns the summary that lies beside a file of rows, None where there is none."""
    if not rows.name.endswith(ROWS_ENDING):
        return None
    path = rows.with_name(rows.name.removesuffix(ROWS_ENDING) + ENDING)
    return path if path.is_file() else None


def read(path: Path) -> Summary:
    """Reads a summary.

    Raises:
        UserError: if a figure is missing, is that of no whole number of right answers, or they contradict each other.
    """
    content = json_object(text_of(path), path.name)
    lengths, shares = content.get("length_statistics"), content.get("subjects")
    parts = next((part for name in _PARTS if (part := _mapping(lengths).get(name))), None)
    if not isinstance(parts, Mapping) or not isinstance(shares, Mapping) or not all(map(_is_number, shares.values())):
        raise UserError(f"{path.name}: subjects with accuracies and length_statistics with their parts are needed.")
    counts = [_counts(part, f"{path.name}, part {name}") for name, part in parts.items()]
    right, n = (sum(count) for count in zip(*counts, strict=True))
    said = content.get("overall_accuracy")
    if not _is_number(said) or not _close(float(str(said)), right / n):
        raise UserError(f"{path.name} says an accuracy of {said}, but its parts have {right} of {n} right.")
    return Summary(path.name, right, n, {str(name): float(share) for name, share in shares.items()})


def compare(summary: Summary, marks: Iterable[tuple[str, bool]]) -> None:
    """Compares a summary with the rows that it was made from.

    Args:
        summary: what was said.
        marks: subject, as the rows name it, and whether it was answered right; a benchmark without subjects is one.

    Raises:
        UserError: naming the first subject whose counts are others.
    """
    found: dict[str, list[bool]] = defaultdict(list)
    for subject, mark in marks:
        found[subject].append(mark)
    every = [mark for own in found.values() for mark in own]
    right, n = sum(every), len(every)
    if (summary.right, summary.n) != (right, n):
        raise UserError(f"{summary.place} says {summary.right} of {summary.n} right, but its rows give {right} of {n}.")
    by_subject = {subject: sum(rights) / len(rights) for subject, rights in found.items() if subject}
    for subject in sorted(by_subject.keys() | (summary.shares.keys() if by_subject else set())):
        ours, theirs = by_subject.get(subject, math.nan), summary.shares.get(subject, math.nan)
        if not _close(ours, theirs):
            raise UserError(
                f"{summary.place} says an accuracy of {theirs:.4f} in {subject}, but its rows give {ours:.4f}."
            )


def _counts(part: Any, where: str) -> tuple[int, int]:
    told = _mapping(part)
    share, n = told.get("accuracy"), told.get("total_samples")
    if not _is_number(share) or not isinstance(n, int) or n < 1:
        raise UserError(f"{where}: an accuracy and total_samples are needed.")
    right = round(float(str(share)) * n)
    if not _close(right / n, float(str(share))):
        raise UserError(f"{where}: no whole number of right answers in {n} is {share}.")
    return right, n


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=_CLOSE)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
