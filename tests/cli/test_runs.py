"""`ls runs`: what each run is about and how far it came."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.records.folder import Held
from tests.support.refusals import refused
from tests.support.synthetic import Plan, run, write

CONFIG = {"channels": ["receiver", "c2c", "routed"], "tasks": ["openbookqa"], "receiver": "hub/r"}


def made(folder: Path, asked: int = 6, **changes: object) -> Path:
    whole = run([Plan(n=4, timed=0)], config=CONFIG, **changes)
    kept = [s for s in whole.samples if s.channel == "receiver" or (s.channel == "c2c" and s.position < 3)]
    whole.samples[:] = kept
    write(whole, folder)
    (folder / "questions.jsonl").write_text("{}\n" * asked)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["ls", "runs", *words]) == 0
    return capsys.readouterr().out


def test_each_state_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "done", run_id="one", started_at="2026-01-02T10:00:00+00:00")
    made(tmp_path / "stopped", status="cancelled", started_at="2026-01-03T10:00:00+00:00")
    made(tmp_path / "deep" / "going", status="started")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    with Held(tmp_path / "deep" / "going"):
        said = told(capsys, str(tmp_path))
    lines = said.splitlines()
    assert lines[0] == f"{tmp_path}/stopped  20260101-openbookqa"
    assert lines[1] == "  2026-01-03 10:00  stopped: 3 of 6 questions through all channels"
    assert lines[2] == "  openbookqa; receiver Qwen/Qwen3-0.6B"
    assert f"{tmp_path}/done  one\n  2026-01-02 10:00  finished: 6 questions" in said
    assert "running: 3 of 6 questions" in said
    assert "unreadable: " in said
    assert "stopped: 3 of 6" in told(capsys, str(tmp_path / "deep"))


def test_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(capsys) == "No run in runs.\n"
    assert "is no folder" in refused(capsys, ["ls", "runs", "nowhere"])
    assert "takes no folder" in refused(capsys, ["ls", "tasks", "runs"])
