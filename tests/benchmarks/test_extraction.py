"""The lenient parser agrees with the released one on every recorded text; the strict one refuses doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks import answer_parsing

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "extraction.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=[case["text"][:40] for case in GOLDEN])
def test_paper_agrees_with_the_released_evaluator(case: dict[str, str | None]) -> None:
    assert answer_parsing.paper(str(case["text"])) == case["letter"]


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
    assert answer_parsing.paper(text) == letter


PLAIN = {
    "B": "B",
    " (C) ": "C",
    "D.": "D",
    "**A**": "A",
    "Option A": "A",
    "The correct answer is B": "B",
    "The correct answer is\nC": "C",
    "The correct answer is: D.": "D",
    "The correct answer is (B)": "B",
    'The correct answer is "B"': "B",
    "the correct answer is option C.": "C",
    "Answer: **D**": "D",
    "The answer is B) Berlin": "B",
    "Based on the text, the correct answer is A.": "A",
    "<think></think>The correct answer is D": "D",
    "D. slow": "D",
    "D) slow": "D",
    "(D) slow": "D",
    "D: slow": "D",
    "**D. slow**": "D",
    "**D.** slow": "D",
    "The correct answer is D. A graph.": "D",
    "B．": "B",
    "答案是B": "B",
    "答案：A": "A",
    "正确答案是 C。": "C",
    "答案为D": "D",
    "选B": "B",
    "选项B": "B",
    "故选D。": "D",
    "\\boxed{B}": "B",
    "$\\boxed{B}$": "B",
    "\\boxed{\\text{B}}": "B",
    "The answer is \\boxed{C}.": "C",
    "The final answer is $\\boxed{C}$": "C",
    "Ｂ": "B",
    "（B）": "B",
    "B. Carbon dioxide": "B",
    "The correct answer is B because plants need light.": "B",
    "D. Vitamin C": "D",
    "D\nThe graph shows it.": "D",
    "B、红色": "B",
    "B.红色": "B",
    "I would choose C.": "C",
    "There is no doubt the answer is B.": "B",
    "I do not know much. The answer is B.": "B",
    "The answer is B. It is a mammal.": "B",
    "**Answer:** B": "B",
    "Answer: D. slow": "D",
    "A. A graph": "A",
    "The correct answer is A. A graph.": "A",
    "The correct option is C": "C",
    "A) a graph": "A",
    "B. False": "B",
    "The answer is B) False": "B",
}
DOUBT = [
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
    "I do not think the answer is B.",
    "I don't think the answer is B.",
    "I doubt the answer is B.",
    "The wrong answer is B.",
    "Is the answer: B?",
    "The answer is B?",
    "A/B/C/D",
    "A, B, C or D",
    "A. B. C. D.",
    "A. yes B. no",
    "答案不是B",
    "我不认为答案是B",
    "不选B",
    "The answer is B, which is wrong.",
    "B is wrong",
    "B. is wrong",
    "It is not true that the answer is B",
    "The answer is B or C",
    "B or C",
    "A cat",
    "A graph of C",
    "[A/B/C/D]",
    "If the answer is B, then plants die.",
    "The answer is either A or B",
    "B.C. 300",
    "I cannot say",
    "B, C",
    "Neither. The answer is E.",
    "The answer is B. C is wrong.",
    "The answer is B, but I am not sure.",
    "B. It is wrong",
]


@pytest.mark.parametrize(("text", "letter"), PLAIN.items())
def test_strict_accepts_what_is_unambiguous(text: str, letter: str) -> None:
    assert answer_parsing.strict(text) == letter


@pytest.mark.parametrize("text", DOUBT)
def test_strict_refuses_doubt(text: str) -> None:
    assert answer_parsing.strict(text) is None


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [("I think the answer is B.", 10, "B"), ("E. slow", 10, "E"), ("E. slow", 4, None), ("C", 3, "C"), ("D", 3, None)],
)
def test_strict_reads_the_letters_of_the_options(text: str, options: int, letter: str | None) -> None:
    assert answer_parsing.strict(text, options) == letter


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A/B/C/D", 4),
        ("The correct answer is A/B/C/D.", 4),
        ("[A, B, C, or D]", 4),
        ("A|B|C|D", 4),
        ("Ａ／Ｂ／Ｃ／Ｄ", 4),
        ("A/B", 2),
        ("A/B/C/D", 10),
    ],
)
def test_an_echo_of_the_instruction_is_known_and_no_answer(text: str, options: int) -> None:
    assert answer_parsing.is_echo(text, options)
    assert answer_parsing.strict(text, options) is None


@pytest.mark.parametrize("text", ["", "A", "A/B", "B. slow", "The correct answer is B", "a cat, B cat, C cat, D cat"])
def test_an_answer_is_no_echo(text: str) -> None:
    assert not answer_parsing.is_echo(text)


@given(st.text())
def test_both_parsers_give_a_letter_or_nothing(text: str) -> None:
    assert answer_parsing.paper(text) in {None, "A", "B", "C", "D"}
    assert answer_parsing.strict(text) in {None, "A", "B", "C", "D"}


@given(st.sampled_from("ABCD"), st.sampled_from(["", ".", ")", "\n", "!"]))
def test_the_asked_for_format_is_read_alike(letter: str, ending: str) -> None:
    text = f"The correct answer is {letter}{ending}"
    assert answer_parsing.strict(text) == answer_parsing.paper(text) == letter
