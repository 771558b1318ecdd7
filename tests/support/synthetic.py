"""Runs that look real without a model: every channel answers every question with a known chance."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records import LoadedRun
from harness.records.schema import Failure, Git, Hardware, ModelInfo, RunRecord, Sample, Timing

LABELS = ("A", "B", "C", "D")
SUBJECTS = tuple(f"{field}_{level}" for field in ("anatomy", "history", "law", "logic", "physics") for level in "abcd")
CHANCES = {
    ("receiver", ""): 0.36,
    ("sharer", ""): 0.40,
    ("routed", ""): 0.37,
    ("t2t", ""): 0.44,
    ("c2c", ""): 0.52,
    ("c2c", "mean"): 0.41,
    ("c2c", "mismatched"): 0.33,
    ("c2c", "self"): 0.43,
}
STAGES = {
    "receiver": {"receiver_prefill": 0.021, "receiver_decode": 0.25},
    "sharer": {"sharer_prefill": 0.019, "sharer_decode": 0.31},
    "routed": {"receiver_prefill": 0.022, "receiver_decode": 0.26},
    "t2t": {"sharer_prefill": 0.02, "sharer_decode": 1.1, "receiver_prefill": 0.03, "receiver_decode": 0.25},
    "c2c": {
        "sharer_prefill": 0.02,
        "message_transfer": 0.003,
        "fusion": 0.017,
        "receiver_prefill": 0.022,
        "receiver_decode": 0.26,
    },
}
PAYLOADS = {"t2t": 310, "c2c": 2_100_000}
Arm = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What a made-up run holds."""

    n: int = 40
    task: str = "openbookqa"
    arms: Sequence[Arm] = tuple(CHANCES)
    subjects: Sequence[str] = ()
    timed: int = 6
    errors: int = 0
    seed: int = 0
    answer: str = "The correct answer is {letter}."
    chances: dict[Arm, float] = field(default_factory=lambda: dict(CHANCES))


def samples(plan: Plan) -> list[Sample]:
    rng = random.Random(plan.seed)
    made = []
    for position in range(plan.n):
        key = rng.choice(LABELS)
        subject = plan.subjects[position % len(plan.subjects)] if plan.subjects else ""
        ease = rng.random()
        for index, arm in enumerate(plan.arms):
            right = (ease if rng.random() < 0.6 else rng.random()) < plan.chances.get(arm, 0.4)
            failed = index == len(plan.arms) - 1 and position < plan.errors
            made.append(_sample(plan, position, arm, key, subject, right, failed, rng))
    return made


def _sample(
    plan: Plan, position: int, arm: Arm, key: str, subject: str, right: bool, failed: bool, rng: random.Random
) -> Sample:
    wrong = rng.choice([label for label in LABELS if label != key])
    letter = key if right else (None if rng.random() < 0.04 else wrong)
    shared: dict[str, Any] = {
        "task": plan.task,
        "doc_id": f"{plan.task}-{position}",
        "position": position,
        "channel": arm[0],
        "control": arm[1],
        "kind": "generate",
        "prompt_sha256": "0" * 64,
        "subject": subject,
        "labels": list(LABELS),
        "key": key,
    }
    if failed:
        return Sample(**shared, error=Failure(type="OutOfMemoryError", message="out of memory"))
    return Sample(
        **shared,
        text=plan.answer.format(letter=letter) if letter else "I cannot say which of these it is.",
        predicted=letter,
        predicted_strict=letter,
        correct=right,
        correct_strict=right,
        entropy=rng.random(),
        message_text=f"Background for question {position}: light bends in water." if arm[0] == "t2t" else None,
        payload_bytes=PAYLOADS.get(arm[0], 0),
        prompt_tokens=180,
        tokens_out=rng.randint(5, 9),
        routed_to=rng.choice(("receiver", "sharer")) if arm[0] == "routed" else None,
    )


def timings(plan: Plan) -> list[Timing]:
    rng = random.Random(plan.seed + 1)
    return [
        _timing(plan, position, arm, repeat, rng)
        for repeat in range(2)
        for position in range(plan.timed)
        for arm in plan.arms
    ]


def _timing(plan: Plan, position: int, arm: Arm, repeat: int, rng: random.Random) -> Timing:
    stages = {stage: seconds * rng.lognormvariate(0, 0.12) for stage, seconds in STAGES[arm[0]].items()}
    total = sum(stages.values())
    decode = stages.get("receiver_decode", stages.get("sharer_decode", 0.0))
    return Timing(
        task=plan.task,
        doc_id=f"{plan.task}-{position}",
        position=position,
        channel=arm[0],
        control=arm[1],
        round=repeat,
        stages_s=stages,
        ttft_s=total - decode,
        e2e_s=total,
        tokens_out=8,
        payload_bytes=PAYLOADS.get(arm[0], 0),
    )


def record(run_id: str = "20260101-openbookqa", **changes: Any) -> RunRecord:
    layers = range(28)
    fields: dict[str, Any] = {
        "run_id": run_id,
        "status": "success",
        "started_at": "2026-01-01T10:00:00+00:00",
        "finished_at": "2026-01-01T11:00:00+00:00",
        "identity": "ab" * 32,
        "config": {"seed": 0},
        "models": [
            ModelInfo(role="receiver", reference="Qwen/Qwen3-0.6B", fingerprint="1" * 64, parameters=596_000_000),
            ModelInfo(role="sharer", reference="Qwen/Qwen2.5-0.5B-Instruct", fingerprint="2" * 64),
        ],
        "fusers": [{"reference": "nics-efc/C2C_Fuser"}],
        "hardware": Hardware(gpu="NVIDIA A100-SXM4-80GB", gpu_count=1, cpu="EPYC 7742", fingerprint="f" * 64),
        "git": Git(commit="0123456789abcdef0123456789abcdef01234567", dirty=False),
        "peak_memory_bytes": {"process": 3_600_000_000},
        "fusion": [
            {
                "layer": layer,
                "gate_k": layer % 5 != 0,
                "gate_v": layer > 3,
                "weight_k": 0.2 + layer / 60,
                "weight_v": 0.8 - layer / 70,
            }
            for layer in layers
        ],
    }
    return RunRecord(**{**fields, **changes})


def run(plans: Iterable[Plan] = (Plan(),), path: Path = Path("run"), **changes: Any) -> LoadedRun:
    listed = list(plans)
    return LoadedRun(
        path=path,
        record=record(**changes),
        samples=[sample for plan in listed for sample in samples(plan)],
        timings=[timing for plan in listed for timing in timings(plan)],
    )


def write(made: LoadedRun, folder: Path) -> Path:
    """Writes a run folder the way a run leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(made.record.model_dump_json(), encoding="utf-8")
    for name, records in (("samples", made.samples), ("timings", made.timings)):
        lines = "".join(f"{item.model_dump_json()}\n" for item in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def questions(
    plan: Plan, text: str = "Which light is bent most by water at question {position}?"
) -> list[dict[str, Any]]:
    made = {sample.doc_id: sample for sample in samples(plan)}
    rows = []
    for doc_id, sample in made.items():
        question = text.format(position=sample.position)
        choices = [f"{colour} light" for colour in ("red", "green", "blue", "violet")]
        listed = "\n".join(f"{label}. {choice}" for label, choice in zip(LABELS, choices, strict=True))
        rows.append(
            {
                "task": plan.task,
                "doc_id": doc_id,
                "question": question,
                "choices": choices,
                "labels": list(LABELS),
                "key": sample.key,
                "subject": sample.subject,
                "prompt": f"Accurately answer the following question:\n\n{question}\n\nChoices:\n{listed}\n",
            }
        )
    return rows
