"""Prompt, parsers and key speak one set of labels, whatever the labels of a dataset are."""

from __future__ import annotations

import logging
from string import ascii_uppercase
from typing import Any

import pytest

from harness.benchmarks import lm_eval_functions
from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.documents import benchmark_documents
from harness.benchmarks.lm_eval_functions import paper_prompt
from harness.benchmarks.questions import load_benchmark
from harness.config import build
from harness.errors import UserError
from tests.support.scored import letter_scores, text_scores
from tests.support.task_rows import Write, listed

OPENBOOKQA = "allenai/openbookqa/main/test"


def row(labels: list[str], key: str, number: int = 0) -> dict[str, Any]:
    return listed(key, number, choices={"text": [f"text {place}" for place in range(len(labels))], "label": labels})


def asked(write: Write, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    write(OPENBOOKQA, rows)
    return [dict(document) for document in benchmark_documents(BENCHMARKS["openbookqa"], "main")]


@pytest.mark.parametrize(
    "labels",
    [
        list("1234"),
        list("0123"),
        list("abcd"),
        list("ＡＢＣＤ"),
        ["A.", "B.", "C.", "D."],
        ["(a)", "(b)", "(c)", "(d)"],
        [" A", " B", " C", " D"],
        ["i", "ii", "iii", "iv"],
        list("12"),
        list("abcdefghij"),
        list("DCBA"),
        list("ABDE"),
        list("αβγ"),
    ],
)
def test_other_labels_become_letters_in_their_order(
    write: Write, labels: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for place, key in enumerate(labels):
        (document,) = asked(write, row(labels, key))
        letter = ascii_uppercase[place]
        assert (document["labels"], document["key"]) == (list(ascii_uppercase[: len(labels)]), letter)
        assert document["source_labels"] == labels
        assert f"\n{letter}. text {place}\n" in paper_prompt(document)
        result = text_scores(document, f"The correct answer is {letter}")
        assert result == {"acc": 1.0, "acc_strict": 1.0, "invalid": 0.0, "parsers_disagree": 0.0}
    with caplog.at_level(logging.WARNING, "harness.benchmarks.documents"):
        asked(write, row(labels, labels[0]), row(list("ABCD"), "A", 1))
    assert "the labels of 1 of 2 rows are not A, B, C, ..." in caplog.text


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 26])
def test_letters_of_any_number_stay_as_they_are(write: Write, count: int) -> None:
    labels = list(ascii_uppercase[:count])
    (document,) = asked(write, row(labels, labels[-1]))
    assert (document["labels"], document["key"], "source_labels" in document) == (labels, labels[-1], False)
    assert f'"The correct answer is {"/".join(labels)}".' in paper_prompt(document)
    assert text_scores(document, f"The correct answer is {labels[-1]}.")["acc_strict"] == 1.0


def test_all_documents_keep_their_source_labels_where_one_has_others(write: Write) -> None:
    documents = asked(write, row(list("ABCD"), "A", 1), row(list("1234"), "2"))
    assert [document["source_labels"] for document in documents] == [list("ABCD"), list("1234")]
    write(OPENBOOKQA, [row(list("ABCD"), "A", 1), row(list("1234"), "2")])
    loaded = lm_eval_functions.load_benchmark(benchmark="openbookqa", dataset_config="main")["test"]
    assert loaded[1]["source_labels"] == list("1234")


def test_canonical_files_are_relabelled_too(write: Write) -> None:
    rows = [{"id": "q", "question": "?", "choices": ["x", "y"], "labels": ["1", "2"], "key": "2"}]
    (found,) = lm_eval_functions.canonical_rows(write("own/test", rows))
    assert (found["labels"], found["key"], found["source_labels"]) == (["A", "B"], "B", ["1", "2"])


def test_more_options_than_letters_are_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"Row main-0 of allenai/openbookqa .*27 options"):
        asked(write, row([str(n) for n in range(27)], "3"))


def test_digit_rows_of_arc_stay_left_out(write: Write) -> None:
    write("allenai/ai2_arc/ARC-Challenge/test", [row(list("ABCD"), "B"), row(list("1234"), "2", 1)])
    (document,) = benchmark_documents(BENCHMARKS["arc_challenge"], "ARC-Challenge")
    assert (document["id"], "source_labels" in document) == ("row-0", False)


def test_the_prompt_of_four_options_is_the_papers() -> None:
    document = {"question": "Q?", "choices": ["w", "x", "y", "z"], "labels": list("ABCD")}
    assert 'Respond ONLY in the following format: "The correct answer is A/B/C/D".' in paper_prompt(document)


def test_arc_keeps_the_released_sentence(write: Write) -> None:
    write("allenai/ai2_arc/ARC-Challenge/test", [row(list("ABC"), "B"), row(list("ABCDE"), "D", 1)])
    config = build({"tasks": ["arc_challenge"], "limit": 2})
    prompts = [item.request.query.receiver.plain for item in load_benchmark(config).all_items]
    assert all('"The correct answer is A/B/C/D".' in prompt for prompt in prompts)
    assert ["\nE. " in prompt for prompt in prompts] == [False, True]


@pytest.mark.parametrize(
    ("text", "options", "correct", "strict"),
    [
        ("The correct answer is E", 5, True, True),
        ("The correct answer is E", 4, False, False),
        ("(J).", 10, True, True),
        ("E or F", 6, True, False),
        ("option c", 3, True, False),
    ],
)
def test_the_parsers_know_how_many_options_there_are(text: str, options: int, correct: bool, strict: bool) -> None:
    labels = ascii_uppercase[:options]
    scores = letter_scores(text, labels[-1], labels)
    assert (scores["acc"], scores["acc_strict"]) == (correct, strict)
