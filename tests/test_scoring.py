"""Verdicts: right and wrong answers, parsers apart, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from harness.errors import RunError
from harness.scoring import ScoreError, Verdict, score_choices, score_text


def test_text_that_both_parsers_read_alike() -> None:
    assert score_text("The correct answer is B", "B") == Verdict("B", "B", True, True, False, False)
    assert score_text("The correct answer is B", "C") == Verdict("B", "B", False, False, False, False)


def test_text_that_only_the_lenient_parser_reads() -> None:
    assert score_text("The correct answer is Carbon dioxide.", "C") == Verdict("C", None, True, False, False, True)


def test_text_without_an_answer_is_invalid_and_wrong() -> None:
    assert score_text("none", "A") == Verdict(None, None, False, False, True, False)


def test_choices_take_the_most_likely_label() -> None:
    verdict = score_choices([-3.0, -1.0, -2.0, -4.0, -9.0], list("ABCDE"), "B")
    assert verdict == Verdict("B", "B", True, True, False, False)


def test_equal_choices_go_to_the_first() -> None:
    assert score_choices([-1.0, -1.0], ["A", "B"], "B").predicted == "A"


def test_minus_infinity_beside_a_number_is_fine() -> None:
    assert score_choices([-math.inf, -1.0], ["A", "B"], "B").correct


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
        score_choices(values, labels, "A")


@pytest.mark.parametrize(
    ("key", "labels", "said"),
    [("2", ("1", "2"), "the labels are 1, 2"), ("E", "ABCD", "The key is 'E'"), ("A", ("A",), "letters from A on")],
)
def test_text_is_scored_against_letters_only(key: str, labels: Sequence[str], said: str) -> None:
    with pytest.raises(ScoreError, match=said):
        score_text("The correct answer is A", key, labels)


def test_a_key_beyond_four_letters_says_how_many_options_there_are() -> None:
    assert score_text("The correct answer is F", "F").correct_strict
