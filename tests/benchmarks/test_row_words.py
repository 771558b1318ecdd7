"""What a text sharer is asked about: questions that are questions, and the options of rows of every published form."""

from __future__ import annotations

from typing import Any

import pytest

from harness.benchmarks.requests import decoding_request, query_of, scoring_request
from harness.channels.t2t import TextVariant, sharer_conversation
from harness.errors import UserError

TWO = ("red", "blue")
ROWS: dict[str, dict[str, Any]] = {
    "list": {"choices": ["red", "blue"]},
    "arc": {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}},
    "openbookqa old": {"choices": [{"text": "red", "label": "A"}, {"text": "blue", "label": "B"}]},
    "hellaswag": {"endings": ["red", "blue"]},
    "mmlu_pro": {"options": ["red", "blue"]},
    "medqa": {"options": {"A": "red", "B": "blue"}},
    "truthfulqa": {"mc1_targets": {"choices": ["red", "blue"], "labels": [1, 0]}},
    "piqa": {"sol1": "red", "sol2": "blue"},
    "winogrande": {"option1": "red", "option2": "blue"},
    "copa": {"choice1": "red", "choice2": "blue"},
    "swag": {"ending0": "red", "ending1": "blue"},
    "social_iqa": {"answerA": "red", "answerB": "blue"},
    "medmcqa": {"opa": "red", "opb": "blue"},
    "ceval": {"A": "red", "B": "blue"},
    "cmmlu": {"option_a": "red", "option_b": "blue"},
}
SCIQ = {"correct_answer": "red", "distractor1": "blue", "distractor2": "amber"}
GPQA = {"Correct Answer": "red", "Incorrect Answer 1": "blue"}


def shown(row: dict[str, Any], *continuations: str) -> str:
    query = query_of("Which?", {"question": "Which?", **row}, {}, 1, continuations=continuations)
    return sharer_conversation(query, TextVariant(with_options=True)).turns[0].content


@pytest.mark.parametrize("name", ROWS)
def test_the_options_of_published_rows_are_shown(name: str) -> None:
    assert shown(ROWS[name]).endswith(
        "Which?\n\nChoices:\nA. red\nB. blue Do NOT directly solve or give answer to the question."
    )


@pytest.mark.parametrize(("row", "listed"), [(SCIQ, "A. amber\nB. blue\nC. red"), (GPQA, "A. blue\nB. red")])
def test_options_whose_fields_tell_the_right_one_are_put_in_order(row: dict[str, Any], listed: str) -> None:
    assert listed in shown(row)


def test_what_is_compared_is_the_options() -> None:
    assert "Choices:\nA. Yes\nB. No" in shown({"choices": ["red", "blue"]}, " Yes", " No")


@pytest.mark.parametrize("labels", [("A", "B"), ("(A)", "(B)"), ("1", "2"), ("a.", "b."), ("Ａ", "Ｂ")])
def test_labels_are_compared_but_their_texts_are_shown(labels: tuple[str, ...]) -> None:
    assert "Choices:\nA. red\nB. blue" in shown(ROWS["arc"], *(f" {label}" for label in labels))


@pytest.mark.parametrize(
    ("row", "continuations"),
    [
        ({}, ()),
        ({}, (" A", " B")),
        ({"choices": ["red"]}, ()),
        ({"choices": "red or blue"}, ()),
        ({"choices": [["red"], ["blue"]]}, ()),
        ({"choices": ["red", None]}, ()),
        ({"answer_1": "red", "answer_2": "rouge"}, ()),
        ({"choices": ["red", "blue", "green"]}, (" A", " B")),
        ({"choices": [f"option {number}" for number in range(27)]}, ()),
    ],
)
def test_options_that_are_not_known_are_refused(row: dict[str, Any], continuations: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="with_options"):
        shown(row, *continuations)


def question(context: str, row: dict[str, Any], **metadata: Any) -> str | None:
    return query_of(context, row, metadata).question


@pytest.mark.parametrize("label", ["cause", "effect"])
def test_a_label_is_no_question(label: str) -> None:
    row = {"premise": "The man broke his toe.", "question": label, "choice1": "He fell.", "choice2": "He ran."}
    assert question("The man broke his toe because", row) is None
    with pytest.raises(UserError, match="t2t_question"):
        sharer_conversation(query_of("The man broke his toe because", row, {}), TextVariant())


@pytest.mark.parametrize(
    ("context", "row", "found"),
    [
        ("x", {"question": "Which?"}, "Which?"),
        ("x", {"question": "Which one"}, "Which one"),
        ("x", {"question": "水的化学式是"}, "水的化学式是"),
        ("Define: entropy\nAnswer:", {"question": "entropy"}, "entropy"),
        ("x", {"question": "effect", "query": "What follows?"}, "What follows?"),
        ("x", {"question": ["a b"], "question_stem": "The sky is"}, "The sky is"),
        ("x", {"goal": "To boil butter, one"}, "To boil butter, one"),
        ("x", {"Question": "Which energy?"}, "Which energy?"),
        ("x", {"question": "", "choices": ["red", "blue"]}, ""),
        ("x", {"question": "iron or wood, which is heavier?", "choices": ["iron", "wood"]}, "iron or wood, which is "
         "heavier?"),
        ("x", {"query": "Q: Which? (A)red (B)blue\nA:", "choices": ["(A)red", "(B)blue"]}, None),
        ("x", {"question": "Which?\nA. red\nB. blue", "choices": ["red", "blue"]}, None),
        ("x", {"text": "no question"}, None),
    ],
)  # fmt: skip
def test_the_bare_question_of_a_row(context: str, row: dict[str, Any], found: str | None) -> None:
    assert question(context, row) == found


def test_a_field_that_the_task_names_is_taken_as_it_is() -> None:
    row = {"question": "cause", "premise": "He fell."}
    assert question("x", row, t2t_question="question") == "cause"
    assert question("x", row, t2t_question=lambda document: document["premise"]) == "He fell."
    with pytest.raises(UserError, match="'prompt' as t2t_question"):
        question("x", row, t2t_question="prompt")


def test_requests_carry_their_options() -> None:
    row = {"goal": "Boil it", "sol1": "red", "sol2": "blue"}
    pairs = [("Boil it", " in water"), ("Boil it", " in oil")]
    assert scoring_request(pairs, row, {}).query.choices == ("in water", "in oil")
    assert decoding_request("Boil it", {}, row, {}).query.choices == TWO
