"""Times ways of training against one another in one process, in turns.

Guarantees what `measure` guarantees for answers: a drift of the machine hits all arms alike, and the machine is
measured in every round. Optimizer state and kept caches are there before the first round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.bench.floor import floor_s
from harness.bench.machine import Meter, Speeds, speeds
from harness.bench.measure import Repeats, rotated
from harness.bench.memory import with_peak
from harness.bench.results import Series
from harness.bench.train_arms import TrainArm, TrainReading
from harness.bench.train_results import PLAIN, TrainCell, TrainResult


@dataclass(frozen=True)
class Trained:
    """Results of one cell and the machine's speeds during it."""

    results: list[TrainResult]
    speeds: Speeds


def measure_training(arms: Mapping[str, TrainArm], cell: TrainCell, repeats: Repeats) -> Trained:
    """Times one optimizer step of every arm in each round; the first warm-up round measures memory."""
    for arm in arms.values():
        arm.settle()
    receiver = next(iter(arms.values())).loop.session.models[0]
    meter = Meter(receiver.device, receiver.dtype)
    peaks: dict[str, int | None] = {}
    for _ in range(repeats.warm_up):
        for name, arm in arms.items():
            peaks.setdefault(name, with_peak(receiver.device, arm.step)[1])
    rounds: list[list[float]] = []
    readings: dict[str, list[TrainReading]] = {name: [] for name in arms}
    for number in range(repeats.timed):
        rounds.append(meter.measure())
        for name in rotated(list(arms), number):
            readings[name].append(arms[name].step())
    machine = speeds(rounds)
    results = [_summary(name, arms[name], cell, found, machine) for name, found in readings.items()]
    return Trained(_against_plain([replace(r, peak_bytes=peaks.get(r.arm)) for r in results]), machine)


def _summary(
    name: str, arm: TrainArm, cell: TrainCell, readings: Sequence[TrainReading], machine: Speeds
) -> TrainResult:
    floors = {part: floor_s(calls, machine) for part, calls in arm.calls.items() if calls}
    lessons = [lesson for micro in arm.loop.batches.of(0) for lesson in micro.lessons]
    return TrainResult(
        arm=name,
        cell=cell,
        total=Series(tuple(r.total_s for r in readings), sum(floors.values())),
        cpu_s=tuple(r.cpu_s for r in readings),
        floors_s=floors,
        losses=tuple(r.loss for r in readings),
        response_tokens=sum(len(lesson.response) for lesson in lessons),
        prompt_tokens=sum(lesson.prompt_length for lesson in lessons),
        held_bytes=arm.held_bytes(),
    )


def _against_plain(results: Sequence[TrainResult]) -> list[TrainResult]:
    base = next((r.total.median_s for r in results if r.arm == PLAIN), None)
    return [replace(r, times_plain=r.total.median_s / base) if base else r for r in results]
