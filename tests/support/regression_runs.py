"""Small runs with known answers, counts and seconds; two calls with equal arguments give equal runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import LoadedRun
from harness.records.folder import RunFolder
from harness.records.schema import Hardware, RunRecord, Sample, Timing

TASK = "openbookqa"
ARMS = (("receiver", ""), ("c2c", ""), ("c2c", "mean"))
MACHINE = Hardware(cpu="one", cores=2, threads=2, fingerprint="1" * 64)
OTHER_MACHINE = Hardware(cpu="two", fingerprint="2" * 64)


def place(position: int, arm: tuple[str, str]) -> dict[str, Any]:
    return {"task": TASK, "doc_id": f"q{position}", "position": position, "channel": arm[0], "control": arm[1]}


def sample(position: int, right: bool = True, arm: tuple[str, str] = ("c2c", ""), **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        **place(position, arm),
        "kind": "generate",
        "prompt_sha256": "0" * 64,
        "labels": ["A", "B"],
        "key": "A",
        "text": "The correct answer is A." if right else "The correct answer is B.",
        "predicted": "A" if right else "B",
        "predicted_strict": "A" if right else "B",
        "correct": right,
        "correct_strict": right,
    }
    return Sample(**{**fields, **changes})


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "run_id": "made",
        "status": "success",
        "started_at": "2026-01-01T10:00:00+00:00",
        "identity": "a" * 64,
        "config": {"batch_size": 8},
        "datasets": {TASK: "d" * 64},
        "task_versions": {TASK: "1"},
        "hardware": MACHINE,
        "counters": {"c2c": {"forwards": 100, "decoded_tokens": 900, "bytes_moved": 4096}},
    }
    return RunRecord(**{**fields, **changes})


def run(samples: Sequence[Sample], timings: Sequence[Timing] = (), **changes: Any) -> LoadedRun:
    return LoadedRun(Path("made"), record(**changes), list(samples), list(timings))


def answers(n: int = 100, arms: Sequence[tuple[str, str]] = ARMS, **changes: Any) -> list[Sample]:
    """Every second question is answered right in every arm."""
    return [sample(i, i % 2 == 0, arm, **changes) for arm in arms for i in range(n)]


@dataclass(frozen=True)
class Clock:
    """How long answers take: questions differ by a third, repeated measurements by `noise`, both log-normal."""

    seed: int
    factor: float = 1.0
    noise: float = 0.03
    questions: int = 20
    rounds: int = 2
    arms: Sequence[tuple[str, str]] = (("c2c", ""),)


def timings(clock: Clock) -> list[Timing]:
    rng = np.random.default_rng(clock.seed)
    lengths_s = 0.4 * np.random.default_rng(7).lognormal(0, 0.33, clock.questions)
    return [
        timing(i, arm, round_, float(lengths_s[i] * clock.factor * rng.lognormal(0, clock.noise)))
        for round_ in range(clock.rounds)
        for i in range(clock.questions)
        for arm in clock.arms
    ]


def timing(position: int, arm: tuple[str, str], round_: int, e2e_s: float, **changes: Any) -> Timing:
    fields: dict[str, Any] = {
        **place(position, arm),
        "round": round_,
        "stages_s": {},
        "ttft_s": e2e_s / 4,
        "e2e_s": e2e_s,
        "tokens_out": 8,
    }
    return Timing(**{**fields, **changes})


def write(made: LoadedRun, folder: Path, **changes: Any) -> Path:
    """Writes a run folder through the same code as a real run."""
    record = made.record.model_copy(update=changes)
    with RunFolder.create(folder, record) as opened:
        opened.add_samples(made.samples)
        opened.add_timings(made.timings)
        opened.finish(record.status)
    return folder


def altered(made: LoadedRun, **changes: Any) -> LoadedRun:
    """The same run with other fields in its record."""
    return replace(made, record=made.record.model_copy(update=changes))
