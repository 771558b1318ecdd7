from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.records.schema import SCHEMA_VERSION
from tests.support.refusals import edit, refused

RUN = [
    "run", "--limit", "2", "--latency_samples", "1", "--no-progress", "--tasks", "relay_one",
    "--channels", "receiver", "--controls", "",
]  # fmt: skip
Change = Callable[[Path], object]


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def entry(**values: Any) -> Change:
    return lambda folder: edit(folder / "run.json", lambda r: r.update(values))


def setting(**values: Any) -> Change:
    return lambda folder: edit(folder / "run.json", lambda r: r["config"].update(values))


def line(name: str, number: int, change: Callable[[str], str]) -> Change:
    def apply(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[number] = change(lines[number])
        (folder / name).write_text("\n".join(lines) + "\n")

    return apply


def field(name: str, **values: Any) -> Change:
    return line(name, 0, lambda text: json.dumps({**json.loads(text), **values}))


RECORDS: dict[str, Change] = {
    "no record": lambda f: (f / "run.json").unlink(),
    "record is no JSON": write("run.json", b"{"),
    "record is empty": write("run.json", b""),
    "record is a list": write("run.json", b"[]"),
    "record says nothing": write("run.json", b"{}"),
    "record is not UTF-8": write("run.json", b'{"run_id": "\xff"}'),
    "newer schema": entry(schema_version=SCHEMA_VERSION + 1),
    "schema is text": entry(schema_version="new"),
    "unknown status": entry(status="done"),
    "unknown field": entry(colour="red"),
    "config is a list": entry(config=[]),
    "identity is missing": lambda f: edit(f / "run.json", lambda r: r.pop("identity")),
    "broken line": line("samples.jsonl", 0, lambda text: text[:20]),
    "line is a list": line("samples.jsonl", 1, lambda _: "[]"),
    "unknown field in a line": field("samples.jsonl", colour="red"),
    "position is text": field("samples.jsonl", position="first"),
    "newer line": field("samples.jsonl", schema_version=SCHEMA_VERSION + 1),
    "unknown kind": field("samples.jsonl", kind="guess"),
    "broken timing": line("timings.jsonl", 0, lambda _: "[]"),
    "unknown field in a timing": field("timings.jsonl", colour="red"),
}
CONFIGS: dict[str, tuple[Change, str]] = {
    "unknown setting": (setting(colour="red"), "unknown key 'colour'"),
    "limit is text": (setting(limit="2"), "whole number"),
    "unknown channel": (setting(channels=["recever"]), "Did you mean 'receiver'?"),
    "unknown task": (setting(tasks=["factwrld"]), "Did you mean 'factworld'?"),
    "model is gone": (setting(receiver="./gone"), "no such folder"),
    "other seed": (setting(seed=5), "differing: documents, prompts, seed."),
    "other version": (entry(identity="0" * 64, identity_fields={}), "differing: "),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*RUN, "--output_path", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.mark.parametrize("command", ["check", "html", "plots", "add", "resume"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_run_folder_is_refused_in_a_sentence(
    name: str, command: str, folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RECORDS[name](folder)
    board, out = tmp_path / "board", tmp_path / "out"
    commands = {
        "check": ["check", str(whole), str(folder)],
        "html": ["report", "--html", str(out), str(folder)],
        "plots": ["report", "--plots", str(out), str(folder)],
        "add": ["report", "--add", "--leaderboards_dir", str(board), str(folder)],
        "resume": ["resume", str(folder)],
    }
    assert str(folder) in refused(capsys, commands[command])
    assert not out.exists()
    assert not list(board.glob("records/*"))


@pytest.mark.parametrize("left", [0, 1])
def test_a_run_that_has_lost_answers_is_no_result_until_it_is_resumed(
    left: int, folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = folder / "samples.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:left]))
    words = f"holds {left} of 2 answers to relay_one through receiver"
    board = ["--leaderboards_dir", str(tmp_path / "board")]
    for command in (["check", str(folder), str(whole)], ["report", "--add", *board, str(folder)]):
        assert words in refused(capsys, command)
    assert cli.main(["resume", str(folder)]) == 0
    assert cli.main(["check", "--no-latency", str(folder), str(whole)]) == 0


def test_what_is_wrong_with_a_file_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"torn')
    board = ["--leaderboards_dir", str(tmp_path / "board")]
    for command in (["check", str(folder), str(folder)], ["report", "--add", *board, str(folder)]):
        assert cli.main(command) == 0
        assert "samples.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_that_cannot_go_on_says_why(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CONFIGS[name]
    change(folder)
    before = (folder / "run.json").read_bytes(), (folder / "samples.jsonl").read_bytes()
    assert words in refused(capsys, ["resume", str(folder)])
    assert before == ((folder / "run.json").read_bytes(), (folder / "samples.jsonl").read_bytes())


@pytest.mark.parametrize("command", ["check", "report", "resume", "resume file"])
def test_a_folder_without_a_run_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    empty = str(tmp_path / "empty")
    commands = {
        "check": ["check", empty, empty],
        "report": ["report", "--html", "page.html", empty],
        "resume": ["resume", empty],
        "resume file": ["resume", str(tmp_path / "file")],
    }
    assert "run.json" in refused(capsys, commands[command])


def test_a_run_is_never_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "samples.jsonl").read_bytes()
    assert "add --resume" in refused(capsys, [*RUN, "--output_path", str(folder)])
    assert (folder / "samples.jsonl").read_bytes() == before
