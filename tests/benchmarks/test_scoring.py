"""Verdicts: right and wrong answers, parsers apart, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from harness.benchmarks.answer_parsing import ScoreError, most_likely, read_letter
from harness.errors import RunError
from tests.support.scored import letter_scores


def test_text_that_both_parsers_read_alike() -> None:
    agreed = {"invalid": 0.0, "parsers_disagree": 0.0}
    assert letter_scores("The correct answer is B", "B") == {"acc": 1.0, "acc_strict": 1.0, **agreed}
    assert letter_scores("The correct answer is B", "C") == {"acc": 0.0, "acc_strict": 0.0, **agreed}


def test_text_that_only_the_lenient_parser_reads() -> None:
    scores = letter_scores("The correct answer is Carbon dioxide.", "C")
    assert scores == {"acc": 1.0, "acc_strict": 0.0, "invalid": 0.0, "parsers_disagree": 1.0}


def test_text_without_an_answer_is_invalid_and_wrong() -> None:
    scores = letter_scores("none", "A")
    assert scores == {"acc": 0.0, "acc_strict": 0.0, "invalid": 1.0, "parsers_disagree": 0.0}


def test_choices_take_the_most_likely_label() -> None:
    assert most_likely([-3.0, -1.0, -2.0, -4.0, -9.0], list("ABCDE")) == "B"


def test_equal_choices_go_to_the_first() -> None:
    assert most_likely([-1.0, -1.0], ["A", "B"]) == "A"


def test_minus_infinity_beside_a_number_is_fine() -> None:
    assert most_likely([-math.inf, -1.0], ["A", "B"]) == "B"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([math.nan, -1.0], ["A", "B"]),
        ([-1.0, math.nan], ["A", "B"]),
        ([math.inf, -1.0], ["A", "B"]),
        ([-math.inf, -math.inf], ["A", "B"]),
        ([-1.0], ["A", "B"]),
        ([], []),
    ],
)
def test_what_is_no_number_is_an_error(values: list[float], labels: list[str]) -> None:
    with pytest.raises(RunError):
        most_likely(values, labels)


@pytest.mark.parametrize(
    ("key", "labels", "said"),
    [("2", ("1", "2"), "the labels are 1, 2"), ("E", "ABCD", "The key is 'E'"), ("A", ("A",), "letters from A on")],
)
def test_text_is_scored_against_letters_only(key: str, labels: Sequence[str], said: str) -> None:
    with pytest.raises(ScoreError, match=said):
        read_letter("The correct answer is A", "paper", key, labels)


def test_a_letter_beyond_the_fourth_is_read_where_there_are_so_many_options() -> None:
    assert letter_scores("The correct answer is F", "F", "ABCDEF")["acc_strict"] == 1.0
