"""Ordinary mistakes in a task file of one's own and in its rows: one sentence each, before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.refusals import refused
from tests.views.build import rows, write_task

Change = Callable[[list[dict[str, Any]]], object]

ROWS: dict[str, tuple[Change, str]] = {
    "id twice": (lambda rows: rows[3].update(id="q1"), "Row 4 of task 'boxes' (boxes.yaml) has the id 'q1', as row 2"),
    "key is no label": (lambda rows: rows[2].update(key="E"), "Row 3 of task 'boxes' (boxes.yaml) has the key 'E'"),
    "key is a number": (lambda rows: [row.update(key=0) for row in rows], "has the key 0; give one of its labels"),
    "fewer labels": (lambda rows: rows[1].update(labels=["A"]), "Row 2 of its data has 1 labels and 2 choices"),
    "more labels": (lambda rows: rows[1].update(labels=["A", "B", "C"]), "has 3 labels and 2 choices"),
    "label twice": (lambda rows: rows[1].update(labels=["A", "A"]), "has the labels ['A', 'A']"),
    "labels are numbers": (lambda rows: [row.update(labels=[0, 1], key=1) for row in rows], "has the labels [0, 1]"),
    "a row without key": (lambda rows: rows[1].pop("key"), "Row 2 of task 'boxes' (boxes.yaml) has no key"),
    "no id": (lambda rows: [row.pop("id") for row in rows], "a row needs id, labels and key. Tasks of lm-eval with"),
    "no labels": (lambda rows: [row.pop("labels") for row in rows], "has no labels; a row needs id, labels and key"),
}

FILES: dict[str, tuple[str, str, str]] = {
    "nothing": ("", "", "it is no list of keys and values"),
    "syntax": ("doc_to_choice: labels", "doc_to_choice: [labels", "it is not valid YAML in line"),
    "no such key": ("doc_to_choice", "doc_to_choise", "'doc_to_choise' is no key of a task. Did you mean 'doc_to_choi"),
    "no such kind": ("multiple_choice", "multi_choice", "invalid output_type 'multi_choice'"),
    "no such split": ("test_split: test", "test_split: tset", "test_split is 'tset', but data_files has test"),
    "no such field": ("{{number}} ?", "{{nummer}} ?", "'nummer' is undefined; the fields of a row are id, number"),
    "no such options": ("doc_to_choice: labels", "doc_to_choice: lables", "doc_to_choice is 'lables', but the fields"),
    "no such file": ("boxes.jsonl", "missing.jsonl", "missing.jsonl cannot be read: No such file"),
    "no such data": ("dataset_path: json", "dataset_path: jsn", "jsn"),
    "kwargs are text": ("dataset_kwargs: {", "dataset_kwargs: x # {", "cannot be used"),
}

DATA = {
    "broken line": (b"{'id': 1}\n", "Line 7 of boxes.jsonl is not valid JSON"),
    "Latin-1": ('{"id": "caf\u00e9"}\n'.encode("latin-1"), "boxes.jsonl is not UTF-8 text (line 7, byte"),
}


def asked(task: Path) -> list[str]:
    tiny = ["--channels", "receiver", "--latency_samples", "0", "--output_path", "run", "--no-progress"]
    # No model is there, so a refusal that names the task comes before one is loaded.
    return ["run", "--tasks", task.name, "--receiver", "nowhere", *tiny]


def task_here(tmp_path: Path) -> Path:
    """A sound task, which names its data as one in this folder."""
    path = write_task(tmp_path)
    path.write_text(path.read_text().replace(f"{tmp_path}/boxes.jsonl", "boxes.jsonl"))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_refused_by_its_number(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, (change, expected) = task_here(tmp_path), ROWS[name]
    lines = rows()
    change(lines)
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert expected in refused(capsys, asked(task))


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_the_file_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, (old, new, expected) = task_here(tmp_path), FILES[name]
    task.write_text(task.read_text().replace(old, new) if old else "")
    said = refused(capsys, asked(task))
    assert said.startswith("Error: Task file boxes.yaml cannot be used: ")
    assert expected in said


@pytest.mark.parametrize("name", DATA)
def test_the_line_of_the_data_at_fault_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, (line, expected) = task_here(tmp_path), DATA[name]
    with (tmp_path / "boxes.jsonl").open("ab") as file:
        file.write(line)
    assert expected in refused(capsys, asked(task))


def test_data_without_rows_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_here(tmp_path)
    (tmp_path / "boxes.jsonl").write_text("")
    assert "boxes.jsonl has no rows; write one JSON object a line." in refused(capsys, asked(task))


def test_a_target_that_is_no_option_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_here(tmp_path)
    task.write_text(task.read_text().replace("doc_to_target: key", "doc_to_target: kee"))
    assert "Row 1 of task 'boxes' (boxes.yaml): doc_to_target gives 'kee', which" in refused(capsys, asked(task))


def test_two_files_that_name_one_task_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task_here(tmp_path)
    (tmp_path / "more.yaml").write_text((tmp_path / "boxes.yaml").read_text())
    said = refused(capsys, asked(Path("boxes.yaml,more.yaml")))
    assert "boxes.yaml and more.yaml both name 'boxes'; give one another name." in said
