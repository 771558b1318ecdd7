from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.imported import build
from tests.support.refusals import refused

Change = Callable[[list[dict[str, Any]]], object]

EDITS: dict[str, tuple[Change, str]] = {
    "id": (lambda rows: rows[3].update(question_id=99), "has no question 99"),
    "place of another question": (lambda rows: rows[3].update(question_id=4), "Row 4 .*differs .*question"),
    "question": (lambda rows: rows[1].update(question="Which of these is a lake?"), "Row 2 .*its question"),
    "option": (lambda rows: rows[1].update(C="lake c"), "Row 2 .*its options.*lake c"),
    "number of options": (lambda rows: rows[1].update(D=""), "Row 2 .*its options: '3 options'"),
    "key": (lambda rows: rows[1].update(true_answer="D", is_correct=False), "Row 2 .*its key: 'D' there, 'B' here"),
    "letter": (lambda rows: rows[1].update(pred="C", is_correct=False), "Row 2 .*records C, but its text .*reads as B"),
    "letter without answer": (lambda rows: rows[1].update(pred=""), "Row 2 .*records no letter"),
    "text": (lambda rows: rows[1].update(cot_output="The correct answer is D."), "Row 2 .*records B.*reads as D"),
    "mark": (lambda rows: rows[1].update(is_correct=False), "Row 2 .*marked wrong"),
    "no letter": (lambda rows: rows[1].update(pred="wet"), "Row 2 .*'wet' for a letter"),
    "twice": (lambda rows: rows.append(dict(rows[0])), "Row 9 .*answers question q-0"),
    "latency": (lambda rows: rows[1].update(answer_latency_ms="nan"), "Row 2 .*'nan' for its latency in ms"),
    "negative latency": (lambda rows: rows[1].update(answer_latency_ms=-1), "Row 2 .*has to be 0 or more"),
    "subject": (lambda rows: rows[1].update(subject="physics"), "Row 2 .*has no question 1 of physics"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_row_is_refused_by_its_number(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, expected = EDITS[name]
    rows = build.cot_rows(build.KEYS)
    change(rows)
    said = refused(capsys, build.flags(build.write_csv(home / "run_cot.csv", rows), home))
    assert _matches(expected, said), said
    assert not (home / "boards" / "records").exists()


def test_a_question_that_the_benchmark_leaves_out_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build.write_csv(home / "arc_cot.csv", build.cot_rows(build.KEYS))
    said = refused(capsys, build.flags(path, home, task="arc_challenge"))
    assert "Row 3" in said
    assert "does not ask question 2" in said


def test_a_summary_that_does_not_fit_its_rows_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = build.cot_rows("ABCDAAAA")
    path = build.write_csv(home / "run_cot.csv", rows)
    (home / "run_summary.json").write_text(json.dumps(build.summary_of(build.cot_rows("ABCDABAA"))))
    assert "says 6 of 8 right, but its rows give 5 of 8" in refused(capsys, build.flags(path, home))


def test_a_summary_that_contradicts_itself_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "x_summary.json"
    path.write_text(json.dumps(build.summary_of(build.cot_rows("ABCDAAAA")) | {"overall_accuracy": 0.75}))
    assert "says an accuracy of 0.75" in refused(capsys, build.flags(path, home))


LINES: dict[str, tuple[dict[str, Any], str]] = {
    "letter of a filter": ({"filtered_resps": ["C"]}, "Line 2 .*records C, but its text .*reads as B"),
    "mark": ({"acc": 0.0}, "Line 2 .*marked wrong"),
    "graded": ({"acc": 0.5}, "Line 2 .*mark of 0.5"),
    "no text": ({"resps": [], "filtered_resps": ["none"]}, "Line 2 .*resps has to hold"),
    "other document": ({"doc": {"id": "q-1", "question_stem": "Another?"}}, "Line 2 .*its question"),
    "unknown id": ({"doc": {"id": "q-11"}}, "Line 2 .*no question with the id 'q-11'"),
}


@pytest.mark.parametrize("name", LINES)
def test_an_edited_line_of_lm_eval_is_refused(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, expected = LINES[name]
    lines = [build.lm_eval_line(n, letter) for n, letter in enumerate(build.KEYS)]
    lines[1].update(change)
    said = refused(capsys, build.flags(build.write_lines(home / "samples.jsonl", lines), home))
    assert _matches(expected, said), said


def test_loglikelihoods_that_are_no_numbers_and_other_marks_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "samples.jsonl"
    build.write_lines(path, [build.compared_line(0, "A", filtered_resps=[["nan", "False"]] * 4)])
    assert "'nan' for its loglikelihood" in refused(capsys, build.flags(path, home))
    build.write_lines(path, [build.compared_line(0, "A", acc=0.0)])
    assert "marked wrong" in refused(capsys, build.flags(path, home))


def test_several_filters_are_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [build.lm_eval_line(0, "A", filter=name) for name in ("first", "second")]
    path = build.write_lines(home / "samples.jsonl", lines)
    assert "name one with --filter" in refused(capsys, build.flags(path, home))
    assert "Did you mean 'second'?" in refused(capsys, build.flags(path, home, filter="secnd"))


TABLES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown column": ([{"id": "q-0", "letter": "A", "latncy_s": 1}], "unknown column 'latncy_s'.*latency_s"),
    "two units": ([{"id": "q-0", "letter": "A", "latency_s": 1, "latency_ms": 1}], "in s and in ms"),
    "letter and text": ([{"id": "q-0", "letter": "A", "text": "Answer: B"}], "Row 1 .*records A.*reads as B"),
    "unknown id": ([{"id": "q-77", "letter": "A"}], "Row 1 .*no question with the id 'q-77'"),
    "some ids": ([{"id": "q-0", "letter": "A"}, {"id": "", "letter": "A"}], "Row 2 .*neither id nor question"),
    "unknown text": ([{"question": "Is it?", "letter": "A"}], "Row 1 .*no question of openbookqa"),
    "letter of no option": ([{"id": "q-0", "letter": "Z"}], "Row 1 .*answers Z, .*q-0 has the letters A, B, C, D"),
    "no key": ([{"letter": "A"}], "Row 1 .*says no key"),
    "infinite": ([{"id": "q-0", "letter": "A", "latency_s": "inf"}], "Row 1 .*'inf' for its latency in s"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_plain_table_is_checked(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    rows, expected = TABLES[name]
    said = refused(capsys, build.flags(build.write_csv(home / "table.csv", rows), home))
    assert _matches(expected, said), said


ARMS = {"base": "A", "fused": "B"}
OBJECTS: dict[str, tuple[dict[str, Any], str]] = {
    "letter": ({"predicted": {"base": "C", "fused": "B"}}, "arm base: the letter is C, .*that of A"),
    "mark": ({"correct": {"base": False, "fused": False}}, "arm base is marked wrong"),
    "truth": ({"truth": "B"}, "arm base is marked right"),
    "unknown field": ({"predictd": {}}, "unknown column 'predictd'"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_letters_of_several_arms_are_checked(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, expected = OBJECTS[name]
    path = build.write_lines(home / "letters.jsonl", [build.letters_line(0, ARMS, **change)])
    arms = ["--arm", "base=receiver", "--arm", "fused=c2c,own"]
    said = refused(capsys, [*build.flags(path, home, channel=""), *arms])
    assert _matches(expected, said), said


COMMANDS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "commit": ({"commit": "main"}, [], "7 to 40 hexadecimal digits"),
    "licence": ({"licence": ""}, [], "import needs --licence"),
    "evaluator": ({"evaluator": ""}, [], "The evaluator of the results"),
    "channel": ({"channel": "c2d"}, [], "Unknown channel 'c2d'.*Did you mean 'c2c'"),
    "no channel": ({"channel": ""}, [], "name its channel"),
    "control": ({"control": "meen"}, [], "Unknown control 'meen'.*'mean'"),
    "task": ({"task": "openbokqa"}, [], "none of our whole tasks.*Did you mean 'openbookqa'"),
    "ours not joined": ({}, ["--not-joined"], "is ours"),
    "format": ({"format": "cot"}, [], "Unknown format 'cot'.*'cot-csv'"),
    "filter": ({"filter": "none"}, [], "has no filters"),
    "digest": ({"sha256": "0" * 64}, [], "it is not the file that was meant"),
    "paths": ({}, ["--path", "a", "--path", "b"], "given 2 times for 1 files"),
    "arm": ({}, ["--arm", "fused=c2c"], "holds one arm"),
    "arm without a channel": ({}, ["--arm", "fused"], "NAME=CHANNEL"),
    "files_dir": ({"files_dir": "."}, [], "without a manifest"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    changes, more, expected = COMMANDS[name]
    path = build.write_csv(home / "run_cot.csv", build.cot_rows(build.KEYS))
    said = refused(capsys, [*build.flags(path, home, **changes), *more])
    assert _matches(expected, said), said


MANIFESTS: dict[str, tuple[str, str]] = {
    "no mapping": ("- 1", "has to say repository"),
    "no YAML": ("a: [", "is no YAML"),
    "misspelt": ("", "licens is wrong: .*Did you mean 'licence'"),
    "nothing": ("", "names neither results nor figures"),
    "percentage": (
        "figures: [{task: t, figures: [{channel: c2c, n: 10, accuracy_percent: '33.3'}]}]",
        "33.3%, which no whole number of 10",
    ),
    "both": ("figures: [{task: t, figures: [{channel: c2c, n: 10, right: 3, accuracy_percent: '30'}]}]", "one of them"),
    "too many": ("figures: [{task: t, figures: [{channel: c2c, n: 10, right: 30}]}]", "30 right of 10"),
    "missing file": ("results: [{task: openbookqa, channel: c2c, files: [{path: gone.csv}]}]", "is no file"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_wrong_manifest_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, expected = MANIFESTS[name]
    source = "".join(f"{key}: '{value}'\n" for key, value in build.SOURCE.items())
    head = {"no mapping": "", "no YAML": "", "misspelt": source.replace("licence", "licens")}.get(name, source)
    (home / "m.yaml").write_text(head + text)
    said = refused(capsys, ["import", str(home / "m.yaml"), "--leaderboards_dir", str(home / "boards")])
    assert _matches(expected, said), said


def test_flags_beside_a_manifest_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out --task" in refused(capsys, ["import", str(home / "m.yaml"), "--task", "openbookqa"])
    assert "not both" in refused(capsys, ["import", str(home / "m.yaml"), str(home / "x.csv")])


def _matches(expected: str, said: str) -> bool:
    return re.search(expected, said) is not None
