"""Times arms against one another in one process, in turns.

Guarantees that a drift of the machine hits all arms alike: every round runs each arm once, starting with another one
each time, and measures the machine beside them. Every batch holds questions that no arm has seen before. The first
rounds only warm up, and the first of them measures memory.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from harness.bench.candidates import OUTSIDE, Arm, Reading, Task
from harness.bench.results import BASELINE, Cell, Result, Series
from harness.bench.roofline import Meter, Speeds, best_speeds, floor_s
from harness.bench.synthetic_pair import Pair, questions
from harness.inference.memory import with_peak
from harness.inference.types import Query


@dataclass(frozen=True)
class Repeats:
    """Rounds that count, and rounds before them that do not."""

    timed: int = 5
    warm_up: int = 1


@dataclass(frozen=True)
class Measured:
    """Results of one cell and the machine's speeds during it."""

    results: list[Result]
    speeds: Speeds


@torch.inference_mode()
def measure(
    pair: Pair, arms: Mapping[str, Arm], cell: Cell, options: tuple[int, int], repeats: Repeats, seed: int = 0
) -> Measured:
    """Times every arm that can do the cell's task; `options` are how many are scored and how long they are."""
    task = Task(cell.new_tokens, *options)
    able = {name: arm for name, arm in arms.items() if _able(name, task)}
    meter, rng = Meter(pair.receiver.device, pair.receiver.dtype), random.Random(seed)  # noqa: S311 - no secret

    def batch() -> list[Query]:
        return questions(pair, cell.batch_size, cell.prompt_tokens, options, rng)

    peaks: dict[str, int | None] = {}
    for _ in range(repeats.warm_up):
        for name, arm in able.items():
            queries = batch()
            found = with_peak(pair.receiver.device, partial(arm, queries, task))[1]
            peaks.setdefault(name, found)
    rounds: list[list[float]] = []
    readings: dict[str, list[Reading]] = {name: [] for name in able}
    for number in range(repeats.timed):
        rounds.append(meter.measure())
        for name in rotated_order(list(able), number):
            readings[name].append(able[name](batch(), task))
    machine = best_speeds(rounds)
    results = [summarize(name, cell, found, machine, peaks.get(name)) for name, found in readings.items()]
    return Measured(against_baseline(results), machine)


def rotated_order(names: Sequence[str], by: int) -> list[str]:
    """The same names, starting with another one."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]


def summarize(name: str, cell: Cell, readings: Sequence[Reading], machine: Speeds, peak: int | None) -> Result:
    """Gathers the readings of one arm; its calls are the same in every round."""
    last = readings[-1]
    floors = {stage: floor_s(calls, machine) for stage, calls in last.calls.items()}
    first_tokens = [r.ttft_s for r in readings if r.ttft_s is not None]
    return Result(
        arm=name,
        cell=cell,
        total=Series(tuple(r.total_s for r in readings), sum(floors.values())),
        ttft=Series(tuple(first_tokens)) if first_tokens else None,
        stages={
            stage: Series(tuple(r.stages_s[stage] for r in readings), floors.get(stage)) for stage in last.stages_s
        },
        peak_bytes=peak,
        cache_bytes=last.cache_bytes,
        payload_bytes=last.payload_bytes,
        tokens_out=cell.new_tokens * cell.batch_size,
    )


def against_baseline(results: Sequence[Result]) -> list[Result]:
    """Adds how many times as long as the baseline everybody takes, where the baseline was timed."""
    base = next((r.total.median_s for r in results if r.arm == BASELINE), None)
    return [replace(r, times_baseline=r.total.median_s / base) if base else r for r in results]


def _able(name: str, task: Task) -> bool:
    return name not in OUTSIDE or (name == "lm_eval") == (task.new_tokens == 0)
