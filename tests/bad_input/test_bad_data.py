from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from tests.support.refusals import refused

ROW: dict[str, Any] = {
    "id": "7-1",
    "question_stem": "Which of these floats?",
    "choices": {"text": ["iron", "wood", "gold", "lead"], "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}


def row(**values: Any) -> bytes:
    return json.dumps({**ROW, **values}).encode()


def options(text: Any, label: Any) -> bytes:
    return row(choices={"text": text, "label": label})


DATA = {
    "nothing": b"",
    "blank line": row() + b"\n\n" + row(id="2"),
    "no JSON": b"{",
    "cut short": row()[:40],
    "a list": b"[1]",
    "a number": b"5",
    "not UTF-8": b"\xff\xfe" + row(),
    "nested": b"[" * 5000,
    "no question": row(question_stem=None),
    "blank question": row(question_stem=" "),
    "question is a number": row(question_stem=5),
    "no options": row(choices=None),
    "options are text": row(choices="iron, wood"),
    "options without text": row(choices={"label": ["A", "B"]}),
    "one option": options(["iron"], ["A"]),
    "fewer labels": options(["iron", "wood"], ["A"]),
    "label twice": options(["iron", "wood"], ["B", "B"]),
    "blank option": options(["iron", ""], ["A", "B"]),
    "option is a number": options(["iron", 3], ["A", "B"]),
    "no key": row(answerKey=None),
    "key is no label": row(answerKey="E"),
    "key is a number": row(answerKey=1),
    "id twice": row() + b"\n" + row(),
    "id is a number": row(id=5),
}


def run(folder: Path) -> list[str]:
    tiny = ["--limit", "2", "--channels", "receiver", "--controls", "", "--output_path", "run", "--no-progress"]
    return ["run", "--tasks", "openbookqa", "--datasets_dir", str(folder), *tiny]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, "")


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_is_refused_in_a_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data" / "allenai" / "openbookqa" / "main" / "test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[name] + b"\n" * bool(DATA[name]))
    assert "openbookqa" in refused(capsys, run(tmp_path / "data"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("elsewhere", "not a folder"),
        ("data", "No folder 'allenai'"),
        ("data/allenai/openbook", "Did you mean 'openbook'?"),
        ("data/allenai/openbookqa/maine", "Did you mean 'maine'?"),
        ("data/allenai/openbookqa/main", "No split 'test'"),
    ],
)
def test_a_missing_data_set_is_named(made: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / made).mkdir(parents=True)
    assert words in refused(capsys, run(tmp_path / "data"))
