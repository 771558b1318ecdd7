"""A device that no longer computes ends every command in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli

LOST = torch.AcceleratorError("CUDA error: device-side assert triggered\nFor debugging consider CUDA_LAUNCH_BLOCKING")


def lost(*_: Any, **__: Any) -> Any:
    raise LOST


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert cli.main(arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


@pytest.mark.parametrize(("flags", "called"), [([], "time_answers"), (["--train"], "time_training")])
def test_a_bench(
    flags: list[str], called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"harness.bench.run.{called}", lost)
    line = said(capsys, ["bench", *flags, "--output", str(tmp_path)])
    assert line.startswith("Error: The device no longer computes (AcceleratorError: CUDA error: device-side assert")
    assert line.endswith("nothing of this bench is kept, start it again in a new process.")


def test_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("harness.training.main._trained", lost)
    data = tmp_path / "rows.jsonl"
    data.write_text("{}")
    asked = ["train", "--data", str(data), "--output_path", str(tmp_path / "out"), "--receiver", "r", "--sharer", "s"]
    line = said(capsys, asked)
    assert line.endswith("what was learned up to the last checkpoint is kept, --resume goes on in a new process.")


def test_a_run_outside_its_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.evaluation.run._run", lost)
    line = said(capsys, ["run", "--output_path", str(tmp_path / "out")])
    assert line.endswith("what was answered is kept, --resume goes on in a new process.")
