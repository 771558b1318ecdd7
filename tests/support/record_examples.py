"""Small records and child processes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.leaderboard.record_format import Answers, BoardRecord, Questions
from harness.leaderboard.reported import ReportedRecord
from harness.records.schema import RunRecord, Sample, Timing

ROOT = Path(__file__).resolve().parents[2]


def run_record(**changes: Any) -> RunRecord:
    fields = {"run_id": "r", "status": "started", "started_at": "2026-01-01T00:00:00+00:00", "identity": "i"}
    return RunRecord.model_validate(fields | changes)


def board_record() -> BoardRecord:
    questions = {"openbookqa": Questions(ids=["0"], keys="A")}
    answers = [Answers(task="openbookqa", channel="c2c", kind="generate", marks="1", predicted="A")]
    return BoardRecord(run=run_record(), results=[], questions=questions, answers=answers)


def reported_record() -> ReportedRecord:
    source = {"repository": "someone/results", "commit": "0123456", "licence": "MIT", "evaluator": "theirs"}
    figures = [{"channel": "c2c", "n": 2, "right": 1}]
    return ReportedRecord.model_validate({**source, "task": "openbookqa", "receiver": "org/model", "figures": figures})


def sample(number: int = 0, **changes: Any) -> Sample:
    fields = {
        "task": "openbookqa",
        "doc_id": str(number),
        "position": number,
        "channel": "c2c",
        "kind": "generate",
        "prompt_sha256": "p",
        "labels": ["A", "B"],
        "key": "A",
        "text": "A",
        "predicted": "A",
        "correct": True,
    }
    return Sample.model_validate(fields | changes)


def timing(number: int = 0, **changes: Any) -> Timing:
    fields = {
        "task": "openbookqa",
        "doc_id": str(number),
        "position": number,
        "channel": "c2c",
        "stages_s": {"receiver_prefill": 0.25},
        "ttft_s": 0.25,
        "e2e_s": 0.5,
        "tokens_out": 2,
    }
    return Timing.model_validate(fields | changes)


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts Python on `code` with the package and these examples in reach."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
