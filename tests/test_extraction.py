"""The lenient parser agrees with the released one on every recorded text; the strict one refuses doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import extraction

GOLDEN = json.loads((Path(__file__).parent / "golden" / "extraction.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=[case["text"][:40] for case in GOLDEN])
def test_paper_agrees_with_the_released_evaluator(case: dict[str, str | None]) -> None:
    assert extraction.paper(str(case["text"])) == case["letter"]


def test_the_golden_file_is_whole() -> None:
    assert len(GOLDEN) == 105


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("", None),
        (" \n\t", None),
        ("The correct answer is Carbon dioxide.", "C"),
        ("correct answer: x\nB", "B"),
        ("a cat sat", "A"),
        ("using B", None),  # "using" holds the sign "sin"
        ("USING B", "B"),
        ("answer: nothing\nresponse: D", "D"),
    ],
)
def test_paper_oddities(text: str, letter: str | None) -> None:
    assert extraction.paper(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (C) ", "C"),
        ("D.", "D"),
        ("**A**", "A"),
        ("Option A", "A"),
        ("The correct answer is B", "B"),
        ("The correct answer is\nC", "C"),
        ("The correct answer is: D.", "D"),
        ("The correct answer is (B)", "B"),
        ('The correct answer is "B"', "B"),
        ("the correct answer is option C.", "C"),
        ("Answer: **D**", "D"),
        ("The answer is B) Berlin", "B"),
        ("Based on the text, the correct answer is A.", "A"),
        ("<think></think>The correct answer is D", "D"),
    ],
)
def test_strict_accepts_what_is_unambiguous(text: str, letter: str) -> None:
    assert extraction.strict(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "E",
        "The correct answer is Carbon dioxide.",
        "The correct answer is a",
        "the Correct answer is a mammal",
        "The correct answer is A mammal",
        "The correct answer is C-14.",
        "The correct answer is D's",
        "The correct answer is A/B/C/D",
        "The correct answer is B, not C",
        "The answer is not B",
        "A cat. The answer is B.",
        "x = D + 2",
        "Vitamin C",
        "B. Carbon dioxide",
        "答案：A",
    ],
)
def test_strict_refuses_doubt(text: str) -> None:
    assert extraction.strict(text) is None


@given(st.text())
def test_both_parsers_give_a_letter_or_nothing(text: str) -> None:
    assert extraction.paper(text) in {None, "A", "B", "C", "D"}
    assert extraction.strict(text) in {None, "A", "B", "C", "D"}


@given(st.sampled_from("ABCD"), st.sampled_from(["", ".", ")", "\n", "!"]))
def test_the_asked_for_format_is_read_alike(letter: str, ending: str) -> None:
    text = f"The correct answer is {letter}{ending}"
    assert extraction.strict(text) == extraction.paper(text) == letter
