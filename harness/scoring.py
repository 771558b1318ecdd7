"""Scores of one answer: the filters and `process_results` of its lm-eval task, applied once.

Guarantees that a loglikelihood or a metric that is not a number is an error for the caller to count: it never becomes
a wrong answer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from harness import extraction
from harness.errors import RunError, UserError
from harness.records.schema import Sample

Pair = tuple[str, str]
PARSERS: Mapping[str, Callable[[str, int], str | None]] = {"paper": extraction.paper, "strict": extraction.strict}
# Scores that the fields of a sample hold already: (metric, filter) -> what the fields say.
_IN_FIELDS: Mapping[Pair, Callable[[Sample], float]] = {
    ("acc", "strict"): lambda s: float(bool(s.correct_strict)),
    ("invalid", "paper"): lambda s: float(s.predicted is None),
    ("invalid", "strict"): lambda s: float(s.predicted_strict is None),
    ("parsers_disagree", "both"): lambda s: float(s.predicted != s.predicted_strict),
}


class ScoreError(RunError):
    """The model's output for one question cannot be scored."""


@dataclass(frozen=True)
class Scores:
    """Scores of one answer by its own task.

    Attributes:
        values: (metric, filter) -> value, in the order of the task's filters and metrics.
        readings: filter -> what it made of a generated text; for options the label of the most likely one.
    """

    values: Mapping[Pair, float]
    readings: Mapping[str, str | None]

    @property
    def first_filter(self) -> str:
        """Name of the filter whose first metric says whether an answer is right."""
        return next(iter(self.values))[1]


def score(task: Any, instances: Sequence[Any], responses: Sequence[Any], labels: Sequence[str] = ()) -> Scores:
    """Scores one answer with the filters and `process_results` of its lm-eval task.

    Args:
        task: the lm-eval task.
        instances: its requests for one document, in order; they are left as they are.
        responses: one a request: a text, or (loglikelihood in nats, is greedy).
        labels: of the options, where these are compared by loglikelihood.

    Raises:
        ScoreError: a response or a metric is not a number, or the filters cannot read this document's answers.
        UserError: a filter leaves several texts.
    """
    asked = [
        replace(instance, resps=[response], filtered_resps={})
        for instance, response in zip(instances, responses, strict=True)
    ]
    asker = copy.copy(task)  # filters write into the requests that a task holds; other threads score with it too
    asker._instances = asked
    asker.apply_filters()
    values: dict[Pair, float] = {}
    for name in asked[0].filtered_resps:
        filtered = [instance.filtered_resps[name] for instance in asked]
        if isinstance(filtered[0], list):
            raise UserError(
                f"Filter {name!r} of task {asked[0].task_name!r} makes a list of a reply; end it with take_first."
            )
        for metric, value in task.process_results(asked[0].doc, filtered).items():
            values[metric, name] = _number(metric, value)
    if not values:
        raise ScoreError(f"Task {asked[0].task_name!r} gives no metric for an answer.")
    return Scores(values, _readings(asked, labels))


def fields_of(scores: Scores) -> dict[str, Any]:
    """Returns what a sample records of its scores; `correct` is full marks in the first metric."""
    first, readings = scores.first_filter, scores.readings
    right = next(iter(scores.values.values())) == 1.0
    fields = {
        "predicted": readings[first],
        "predicted_strict": readings.get("strict", readings[first]),
        "correct": right,
        "correct_strict": scores.values.get(("acc", "strict"), float(right)) == 1.0,
    }
    known = Sample.model_construct(**fields)
    kept = {p: v for p, v in scores.values.items() if p not in _IN_FIELDS or _IN_FIELDS[p](known) != v}
    metrics = {metric if name == first else f"{metric},{name}": value for (metric, name), value in kept.items()}
    return {**fields, "metrics": metrics}


def scores_of(sample: Sample, filters: Sequence[str], metrics: Sequence[str]) -> dict[Pair, float]:
    """Returns the recorded scores of an answered sample by (metric, filter), in the order of its task.

    Args:
        sample: with scores.
        filters: of its task, the one that decides first.
        metrics: of its task.
    """
    recorded = {pair: told(sample) for pair, told in _IN_FIELDS.items() if pair[1] in filters and pair[0] in metrics}
    for name, value in sample.metrics.items():
        metric, _, told = name.partition(",")
        recorded[metric, told or filters[0]] = value
    return dict(sorted(recorded.items(), key=lambda entry: filters.index(entry[0][1])))


def read_letter(text: str, parser: str, key: str, labels: Sequence[str]) -> str | None:
    """Reads an answer letter from a generated text; None where the parser finds none.

    Args:
        text: what the model wrote.
        parser: name in `PARSERS`.
        key: the right label.
        labels: of all options of the question: the first letters of the alphabet, in order.

    Raises:
        ScoreError: if the labels are others, which no parser can read, or the key is not among them.
    """
    if list(labels) != list(ascii_uppercase[: len(labels)]) or len(labels) < 2:
        raise ScoreError(f"Answers are read as letters from A on; the labels are {', '.join(labels)}.")
    if key not in list(labels):
        raise ScoreError(f"The key is {key!r}, which is not one of the labels {', '.join(labels)}.")
    return PARSERS[parser](text, len(labels))


def most_likely(loglikelihoods: Sequence[float], labels: Sequence[str]) -> str:
    """Returns the label of the greatest loglikelihood (nats, one a label), the first of equals.

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
    return labels[list(loglikelihoods).index(best)]


def _readings(asked: Sequence[Any], labels: Sequence[str]) -> dict[str, str | None]:
    if asked[0].request_type == "generate_until":
        return {name: read if isinstance(read, str) else None for name, read in asked[0].filtered_resps.items()}
    label = most_likely([instance.resps[0][0] for instance in asked], labels)
    return dict.fromkeys(asked[0].filtered_resps, label)


def _number(metric: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ScoreError(
            f"Metric {metric!r} of one answer is {str(value)[:40]!r}, which is no number; tasks with such metrics run "
            "through python -m harness.lm_eval."
        ) from None
    if not math.isfinite(number):
        raise ScoreError(f"Metric {metric!r} of one answer is {number}; the question cannot be scored.")
    return number
