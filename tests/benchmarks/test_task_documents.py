"""Every kind of row becomes a canonical document; every broken one stops with a sentence that names it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from harness.benchmarks import sources
from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.documents import Document, benchmark_documents
from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from harness.errors import UserError
from tests.support.task_rows import Write, ceval, listed, redux

OPENBOOKQA = "allenai/openbookqa/main/test"
ARC = "allenai/ai2_arc/ARC-Challenge/test"
REDUX = "edinburgh-dawg/mmlu-redux-2.0/sociology/test"
CEVAL = "ceval/ceval-exam/law/val"


def documents(name: str, config: str = "") -> list[Document]:
    benchmark = BENCHMARKS[name]
    return benchmark_documents(benchmark, config or benchmark.config)


def refusal(name: str, config: str = "") -> str:
    with pytest.raises(UserError) as caught:
        documents(name, config)
    return str(caught.value)


def test_openbookqa_row(write: Write) -> None:
    write(OPENBOOKQA, [listed("C", 7)])
    assert documents("openbookqa") == [
        {
            "id": "row-7",
            "question": "Which one freezes first?",
            "choices": ["tea", "rain", "oil", "sand"],
            "labels": ["A", "B", "C", "D"],
            "key": "C",
            "subject": "",
            "category": "",
        }
    ]


def test_arc_keeps_three_and_five_options_and_counts_digit_keys(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    three = {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}
    five = {"text": list("vwxyz"), "label": list("ABCDE")}
    digits = {"text": list("wxyz"), "label": list("1234")}
    write(
        ARC,
        [
            listed("C", 0, choices=three),
            listed("A", 1, choices=five),
            listed("E", 2, choices=five),
            listed("2", 3, choices=digits),
        ],
    )
    with caplog.at_level(logging.INFO, "harness.benchmarks.documents"):
        kept = documents("arc_challenge")
    assert [document["id"] for document in kept] == ["row-0", "row-1"]
    assert len(kept[1]["labels"]) == 5
    assert "2 of 4 rows left out (the key is not one of A-D)" in caplog.text


def test_mmlu_redux_ids_subject_and_category(write: Write) -> None:
    write(REDUX, [redux("expert"), redux(answer=3)])
    (kept,) = documents("mmlu_redux", "sociology")
    assert (kept["id"], kept["key"], kept["subject"], kept["category"]) == (
        "sociology-1",
        "D",
        "sociology",
        "social_sciences",
    )


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (redux("ok", 0, "3"), "A"),
        (redux("bad_options_clarity", 2), "C"),
        (redux("multiple_correct_answers", 1, "0 and 1"), "B"),
        (redux("wrong_groundtruth", 0, "3"), "D"),
        (redux("wrong_groundtruth", 0, "C"), "C"),
        (redux("wrong_groundtruth", 0, None), "A"),
        (redux("wrong_groundtruth", 0, ""), "A"),
        (redux("no_correct_answer", 0, "none"), None),
        (redux("expert", 0), None),
        (redux("wrong_groundtruth", 0, "both"), None),
    ],
)
def test_the_papers_filter(write: Write, row: dict[str, Any], key: str | None) -> None:
    write(REDUX, [row, redux(answer=1)])
    kept = {document["id"]: document["key"] for document in documents("mmlu_redux", "sociology")}
    assert kept.get("sociology-0") == key


@pytest.mark.parametrize("error", ["wrong_groundtruth", "expert", "bad_question_clarity"])
def test_the_ok_filter(write: Write, error: str) -> None:
    write(REDUX, [redux(error, 0, "B"), redux()])
    assert [document["id"] for document in documents("mmlu_redux_ok", "sociology")] == ["sociology-1"]


def test_no_published_question_may_be_blank(write: Write) -> None:
    write(REDUX, [*[redux() for _ in range(38)], redux(question="")])
    assert "Row sociology-38 of edinburgh-dawg/mmlu-redux-2.0" in refusal("mmlu_redux_ok", "sociology")


def test_a_wrong_key_without_a_correction_is_asked_with_its_own(write: Write) -> None:
    write("edinburgh-dawg/mmlu-redux-2.0/formal_logic/test", [*[redux()] * 57, redux("wrong_groundtruth", 0, "")])
    kept = documents("mmlu_redux", "formal_logic")
    assert (len(kept), kept[57]["id"], kept[57]["key"]) == (58, "formal_logic-57", "A")


def test_ceval_row(write: Write) -> None:
    write(CEVAL, [ceval("D"), ceval("A")])
    first, second = documents("ceval_val", "law")
    assert (first["id"], first["key"], first["choices"]) == ("law-0", "D", ["一", "二", "三", "四"])
    assert (second["id"], second["category"]) == ("law-1", "humanities")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (listed(question_stem=None), "the question is missing"),
        (listed(question_stem="  "), "the question is blank"),
        (listed(question_stem=3), "the question must be text, not int"),
        (listed("E"), "the key is 'E', which is not one of its labels A, B, C, D"),
        (listed(answerKey=None), "the key is missing"),
        (listed(choices=None), "options and labels must be lists"),
        (listed(choices=["a", "b"]), "options and labels must be lists"),
        (listed("A", choices={"text": ["x"], "label": ["A"]}), "1 options"),
        (listed("A", choices={"text": ["x", "y"], "label": ["A"]}), "2 options with labels ['A']"),
        (listed("A", choices={"text": ["x", "y"], "label": ["A", "A"]}), "each its own label"),
        (listed("A", choices={"text": ["x", ""], "label": ["A", "B"]}), "option 2 is blank"),
        (listed("A", choices={"text": ["x", 5], "label": ["A", "B"]}), "option 2 must be text, not int"),
        (listed(id=5), "the id must be text"),
        (listed(id=""), "the id is blank"),
    ],
)
def test_malformed_rows_are_named(write: Write, row: dict[str, Any], said: str) -> None:
    write(OPENBOOKQA, [listed("A", 1), row])
    message = refusal("openbookqa")
    assert said in message
    assert "Row main-1 of allenai/openbookqa" in message


def test_a_row_that_is_left_out_must_be_well_formed_too(write: Write) -> None:
    write(REDUX, [redux(), redux("expert", answer=9)])
    assert "the key is '9'" in refusal("mmlu_redux", "sociology")


def test_unknown_error_type_suggests_a_near_one(write: Write) -> None:
    write(REDUX, [redux("wrong_groundtruh")])
    assert "Did you mean 'wrong_groundtruth'?" in refusal("mmlu_redux", "sociology")


def test_duplicate_ids(write: Write) -> None:
    write(OPENBOOKQA, [listed(number=1), listed(number=2), listed(number=1)])
    assert "the id 'row-1' occurs 2 times" in refusal("openbookqa")


@pytest.mark.parametrize(
    ("line", "said"),
    [("{broken", "Line 2 of"), ("[1]", "must be a JSON object, not list"), ("", "Line 2 of")],
)
def test_broken_lines_are_numbered(write: Write, line: str, said: str) -> None:
    path = write(OPENBOOKQA, [listed(), line, listed(number=2)])
    message = refusal("openbookqa")
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n \n\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_byte_order_mark_and_blank_last_lines_are_passed_over(write: Write, start: str, end: str) -> None:
    path = write(OPENBOOKQA, [])
    path.write_text(start + "\n".join(json.dumps(listed(number=n)) for n in range(2)) + end, encoding="utf-8")
    assert [document["id"] for document in documents("openbookqa")] == ["row-0", "row-1"]


def test_a_file_that_is_no_text(write: Write) -> None:
    write(OPENBOOKQA, []).write_bytes(b"\xff\xfe{")
    assert "is not UTF-8 text" in refusal("openbookqa")


def test_no_rows_and_none_left(write: Write) -> None:
    write(OPENBOOKQA, [])
    assert "has no rows" in refusal("openbookqa")
    write(REDUX, [redux("expert")])
    assert "has no row that mmlu_redux asks" in refusal("mmlu_redux", "sociology")


def test_missing_split_folder_and_root(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write("ceval/ceval-exam/law/tests", [ceval()]).parents[3]
    assert "No split 'test'" in refusal("ceval", "law")
    assert "Did you mean 'tests'?" in refusal("ceval", "law")
    assert "No folder 'logic'" in refusal("ceval", "logic")
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, str(root / "nowhere"))
    assert "which is not a folder" in refusal("ceval", "law")


def test_a_split_without_labels_is_named(write: Write) -> None:
    write("ceval/ceval-exam/law/test", [ceval(""), ceval("")])
    assert "Split 'test' carries no answers" in refusal("ceval", "law")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("names", [["test"], ["test-00000-of-00001"], ["test-00000-of-00002", "test-00001-of-00002"]])
def test_parquet_is_read_as_json_lines_are(write: Write, names: list[str]) -> None:
    rows = [listed(number=n) for n in range(4)]
    lines = write(OPENBOOKQA, rows)
    expected = documents("openbookqa")
    lines.unlink()
    each = len(rows) // len(names)
    for place, name in enumerate(names):
        parquet(lines.with_name(f"{name}.parquet"), rows[place * each : (place + 1) * each])
    parquet(lines.with_name("test-of-another-kind.parquet"), rows)
    assert documents("openbookqa") == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["test", "test-00000-of-00001"], "more than once, as test.parquet and test-00000-of-00001.parquet"),
        (["test-00001-of-00002"], "is not whole: there are test-00001-of-00002.parquet"),
        (["test-00000-of-00001", "test-00000-of-00002"], "is not whole"),
        (["train-00000-of-00001", "tests"], "there are tests, train. Did you mean 'tests'?"),
    ],
)
def test_a_split_in_two_forms_or_in_part_is_refused(write: Write, names: list[str], said: str) -> None:
    folder = write(OPENBOOKQA, []).parent
    (folder / "test.jsonl").unlink()
    for name in names:
        parquet(folder / f"{name}.parquet", [listed()])
    assert said in refusal("openbookqa")


def test_two_forms_of_a_split_and_a_broken_file_are_named(write: Write) -> None:
    lines = write(OPENBOOKQA, [listed()])
    lines.with_name("test.parquet").write_bytes(b"PAR1 broken")
    assert "as test.jsonl and test.parquet" in refusal("openbookqa")
    lines.unlink()
    assert "test.parquet cannot be read as parquet" in refusal("openbookqa")


def test_the_hub_is_asked_for_one_split_at_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sources, "load_split", lambda *arguments: asked.append(arguments) or ([listed()], ""))
    monkeypatch.delenv(DATASETS_DIR_VARIABLE, raising=False)
    assert len(documents("openbookqa")) == 1
    revision = BENCHMARKS["openbookqa"].source.revision
    assert asked == [("allenai/openbookqa", revision, "main", "test")]


@pytest.mark.parametrize("error", [UserError("not there"), ValueError("Unknown split"), RuntimeError("script")])
def test_a_hub_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*_: str) -> None:
        raise error

    monkeypatch.setattr(sources, "load_split", failing)
    monkeypatch.delenv(DATASETS_DIR_VARIABLE, raising=False)
    message = refusal("openbookqa")
    assert str(error) in message
    assert DATASETS_DIR_VARIABLE in message


def test_benchmarks_are_pinned() -> None:
    for benchmark in BENCHMARKS.values():
        assert len(benchmark.source.revision) == 40
        assert Path(benchmark.folder).name == benchmark.folder
        assert bool(benchmark.config) != bool(benchmark.subjects)
    assert sum(map(len, BENCHMARKS["mmlu_redux"].subjects.values())) == 57
    assert sum(map(len, BENCHMARKS["ceval"].subjects.values())) == 52
