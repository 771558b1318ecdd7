"""From what a model produced to a verdict on one question.

Guarantees that every way of asking (generated text, letter loglikelihoods) ends in the same record,
whether or not lm-eval is involved. A loglikelihood that is not a number is an error for the caller
to count: it never becomes a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from harness import extraction
from harness.errors import RunError


class ScoreError(RunError):
    """The model's output for one question cannot be scored."""


@dataclass(frozen=True)
class Verdict:
    """What was answered and whether it was right.

    Attributes:
        predicted: letter by the paper's parser, or the most likely label; None if there is none.
        predicted_strict: letter by the strict parser; equals `predicted` for loglikelihoods.
        correct: `predicted` is the key.
        correct_strict: `predicted_strict` is the key.
        invalid: there is no `predicted`.
        disagree: the two parsers read different things.
    """

    predicted: str | None
    predicted_strict: str | None
    correct: bool
    correct_strict: bool
    invalid: bool
    disagree: bool


def score_text(text: str, key: str, labels: Sequence[str] | None = None) -> Verdict:
    """Scores generated text with both parsers.

    Args:
        text: what the model wrote.
        key: the right label.
        labels: of all options of the question: the first letters of the alphabet, in order. None stands for as many as
            the key needs, at least A to D.

    Raises:
        ScoreError: if the labels are others, which no parser can read, or the key is not among them.
    """
    if labels is None:
        labels = ascii_uppercase[: max(extraction.PAPER_OPTIONS, ascii_uppercase.find(key) + 1)]
    if list(labels) != list(ascii_uppercase[: len(labels)]) or len(labels) < 2:
        raise ScoreError(f"Answers are read as letters from A on; the labels are {', '.join(labels)}.")
    if key not in list(labels):
        raise ScoreError(f"The key is {key!r}, which is not one of the labels {', '.join(labels)}.")
    return _verdict(extraction.paper(text, len(labels)), extraction.strict(text, len(labels)), key)


def score_choices(loglikelihoods: Sequence[float], labels: Sequence[str], key: str) -> Verdict:
    """Scores one loglikelihood a label, the first of equals winning.

    Raises:
        ScoreError: if the numbers do not match the labels, one is NaN or +inf, or all are -inf.
    """
    if len(loglikelihoods) != len(labels):
        raise ScoreError(f"{len(loglikelihoods)} loglikelihoods were given for {len(labels)} labels.")
    seen = ", ".join(f"{label}={value}" for label, value in zip(labels, loglikelihoods, strict=True))
    if any(math.isnan(value) or value == math.inf for value in loglikelihoods):
        raise ScoreError(f"A loglikelihood is not a finite number ({seen}); the question cannot be scored.")
    best = max(loglikelihoods, default=-math.inf)
    if best == -math.inf:
        raise ScoreError(f"No label has a finite loglikelihood ({seen}); the question cannot be scored.")
    predicted = labels[list(loglikelihoods).index(best)]
    return _verdict(predicted, predicted, key)


def _verdict(predicted: str | None, predicted_strict: str | None, key: str) -> Verdict:
    return Verdict(
        predicted=predicted,
        predicted_strict=predicted_strict,
        correct=predicted == key,
        correct_strict=predicted_strict == key,
        invalid=predicted is None,
        disagree=predicted != predicted_strict,
    )
