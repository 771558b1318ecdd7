"""One question of a run on the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.records import load_run
from harness.report.question import render_question
from tests.support.refusals import refused
from tests.support.synthetic import Plan, questions, run, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(run([Plan(n=5)]), tmp_path / "run")


def sidecar(folder: Path, **more: str) -> None:
    lines = "".join(json.dumps({**row, **more}) + "\n" for row in questions(Plan(n=5)))
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")


def test_a_question_shows_prompt_message_and_every_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar(folder)
    assert cli.main(["report", str(folder), "--question", "openbookqa-3"]) == 0
    said = capsys.readouterr().out
    assert "both models read:\n  Accurately answer the following question:" in said
    assert "Background for question 3: light bends in water." in said
    assert "310 B of text crossed" in said
    assert "2.1 MB of tensors crossed" in said
    samples = [s for s in load_run(folder).samples if s.doc_id == "openbookqa-3"]
    for sample in samples:
        arm = "/".join(filter(None, sample.arm))
        assert f"{arm}: {sample.predicted or 'invalid'}, {'right' if sample.correct else 'wrong'}" in said
    assert max(map(len, said.splitlines())) <= 80


def test_two_views_are_shown_apart(folder: Path) -> None:
    sidecar(folder, sharer_prompt="Only the sharer is told.\x1b[31m")
    said = render_question(load_run(folder), "openbookqa/openbookqa-3")
    assert "receiver reads:\n  Accurately" in said
    assert "sharer reads:\n  Only the sharer is told.\ufffd[31m" in said


def test_where_one_model_runs_it_alone_reads(folder: Path) -> None:
    sidecar(folder)
    made = load_run(folder)
    record = made.record.model_copy(update={"models": [m for m in made.record.models if m.role == "receiver"]})
    said = render_question(replace(made, record=record), "openbookqa-3")
    assert "receiver reads:\n  Accurately" in said
    assert "both models" not in said


def test_a_question_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, ["report", str(folder), "--question", "openbookqa-77"])
    assert "no answer to question 'openbookqa-77'" in said
    assert "Did you mean" in said
    assert "kept no text" in render_question(load_run(folder), "openbookqa-3")
    for flags in (
        ["--question", "x"],
        [str(folder), "--question", "x", "--all"],
        [str(folder), "--question", "", "-x"],
    ):
        refused(capsys, ["report", *flags])
