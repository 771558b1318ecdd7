"""Scores of a generated text as the tasks of the harness give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.benchmarks.lm_eval_functions import AnswerLetter, process_text


def text_scores(document: Mapping[str, Any], text: str) -> dict[str, float]:
    """Returns the scores of both parsers' filters: acc, acc_strict, invalid, parsers_disagree."""

    def told(parser: str) -> dict[str, float]:
        return process_text(document, AnswerLetter(parser).apply([[text]], [document])[0])

    paper = told("paper")
    return {"acc": paper["acc"], "acc_strict": told("strict")["acc"], "invalid": paper["invalid"], **told("both")}


def letter_scores(text: str, key: str, labels: str = "ABCD") -> dict[str, float]:
    """Returns the same of a question of which nothing but labels and key matters."""
    return text_scores({"key": key, "labels": list(labels)}, text)
