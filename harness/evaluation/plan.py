"""What a run would do, without doing it: arms, questions, tokens, bytes, time, and what its questions can show.

Everything is read as a run reads it, so what a run refuses before its first question is refused here in the same words.
Tokens, bytes and seconds are extrapolated from a few questions that are answered and thrown away; nothing is written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from textwrap import fill

import pandas as pd

from harness import stats
from harness.benchmarks.questions import Benchmark, Item, with_datasets_dir
from harness.channels.control_registry import CONTROLS
from harness.channels.engine import answers_itself
from harness.channels.interface import Group
from harness.config import RunConfig
from harness.distributed import Ranks
from harness.evaluation.accuracy_pass import answer_task, needs_mean, samples_missing
from harness.evaluation.latency_pass import timed_alone, timed_questions
from harness.evaluation.run import one_run_at_a_time, prepared
from harness.evaluation.run_state import Tally
from harness.inference.batching import Budget
from harness.records.folder import refuse_taken
from harness.records.schema import Sample
from harness.results.formatting import bytes_text
from harness.results.terminal_table import WIDTH, fold_table

SECONDS = 10.0
DISCORDANCE = 0.2
WANTED_POINTS = (3, 5, 10)
_ALONE = 2  # questions of a channel that are timed by themselves


@dataclass(frozen=True)
class Part:
    """One channel with its controls.

    Attributes:
        arms: the channel as it is, and its controls.
        answers: of all arms.
        prompt_tokens, payload_bytes: means of the questions that were tried; None where none could be answered.
        answer_s: seconds an answer in a batch.
        alone_s: seconds an answer by itself, None where none is timed so.
        means: messages that make up mean messages.
    """

    name: str
    arms: int
    answers: int
    prompt_tokens: float | None
    payload_bytes: float | None
    answer_s: float
    alone_s: float | None
    means: int

    @property
    def seconds(self) -> float:
        """Of the accuracy pass; a message of the mean is taken to cost as much as an answer."""
        return (self.answers + self.means) * self.answer_s


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        tasks: questions of each.
        new_tokens: that an arm may decode at most, over all questions; 0 where options are scored.
        timed: questions of the latency pass, repetitions and warm-up included.
        loading_s: what reading models and data took.
        tried: questions that were answered for the estimate.
    """

    tasks: dict[str, int]
    parts: list[Part]
    new_tokens: int
    timed: int
    loading_s: float
    tried: int

    @property
    def latency_s(self) -> float:
        """Of the latency pass."""
        return self.timed * sum(part.alone_s or 0.0 for part in self.parts)

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.loading_s + self.latency_s + sum(part.seconds for part in self.parts)


def plan(asked: RunConfig, seconds: float | None = None) -> Plan:
    """Prepares a run, tries a few questions and counts.

    Args:
        asked: the run.
        seconds: how long to try, over all channels; None for `SECONDS`.

    Raises:
        UserError: the run would be refused.
    """
    config = with_datasets_dir(asked)
    if config.output_path is not None and not config.resume:
        refuse_taken(Path(config.output_path))
    with one_run_at_a_time():
        began = time.monotonic()
        config, benchmark, cast, _ = prepared(config, (), Ranks())
        loading_s = time.monotonic() - began
        share = (SECONDS if seconds is None else seconds) / max(len(cast.groups), 1)
        tried = [_tried(group, benchmark, config, share) for group in cast.groups]
    new_tokens = sum(0 if item.request.options else item.request.max_new_tokens for item in benchmark.all_items)
    return Plan(
        tasks={task: len(items) for task, items in benchmark.items.items()},
        parts=[part for part, _ in tried],
        new_tokens=new_tokens,
        timed=timed_questions(config, benchmark),
        loading_s=loading_s,
        tried=sum(count for _, count in tried),
    )


def _tried(group: Group, benchmark: Benchmark, config: RunConfig, seconds: float) -> tuple[Part, int]:
    """Answers batches of a channel until its time is over; controls that need a mean message take no part."""
    kept = tuple(name for name in group.controls if "mean" not in CONTROLS.get(name).inputs)
    measured = Group(group.channel, kept, group.name_control)
    items = benchmark.all_items
    random.Random(config.seed).shuffle(items)  # noqa: S311 - reproducible, not secret
    samples, spent, tried = _batches(measured, items, config, seconds)
    own = [sample for sample in samples if not sample.control]
    part = Part(
        name=group.channel.name,
        arms=1 + len(group.controls),
        answers=sum(samples_missing(group, asked, frozenset()) for asked in benchmark.items.values()),
        prompt_tokens=_mean([sample.prompt_tokens for sample in own]),
        payload_bytes=_mean([sample.payload_bytes for sample in own]),
        answer_s=spent / max(len(samples), 1),
        alone_s=_alone_s(group, items, config),
        means=sum(
            min(config.calibration_samples, len(asked))
            for asked in benchmark.items.values()
            if needs_mean(group, asked)
        ),
    )
    return part, tried


def _batches(group: Group, items: Sequence[Item], config: RunConfig, seconds: float) -> tuple[list[Sample], float, int]:
    """Samples, seconds and questions of what was tried; the first batch warms up where there is a second one."""
    samples: list[Sample] = []
    spent, tried, size = 0.0, 0, max(config.batch_size, 2)
    budget, began = Budget(config.batch_size, config.max_batch_tokens), time.monotonic()
    for start in range(0, len(items), size):
        before = time.monotonic()
        found = answer_task(group, items[start : start + size], frozenset(), budget, config.seed, (), Tally())
        made = [sample for batch, _ in found for sample in batch]
        now = time.monotonic()
        samples, spent = (made, now - before) if start <= size else (samples + made, spent + now - before)
        tried += len(items[start : start + size])
        if now - began >= seconds:
            break
    return samples, spent, tried


def _alone_s(group: Group, items: Sequence[Item], config: RunConfig) -> float | None:
    if group.name_control or answers_itself(group.channel) or not config.latency_samples:
        return None
    began = time.monotonic()
    chosen = items[:_ALONE]
    for item in chosen:
        timed_alone(group.channel, item.request)
    return (time.monotonic() - began) / len(chosen)


def _mean(values: Sequence[int]) -> float | None:
    return fmean(values) if values else None


def render(found: Plan, width: int = WIDTH) -> str:
    """Writes a plan for a terminal."""
    questions = sum(found.tasks.values())
    rows = pd.DataFrame([_cells(part, questions, found.new_tokens) for part in found.parts])
    asked = ", ".join(f"{count:,} of {task}" for task, count in list(found.tasks.items())[:6])
    more = f" and {len(found.tasks) - 6} more tasks" if len(found.tasks) > 6 else ""
    lines = [
        f"Questions: {questions:,} ({asked}{more}).",
        fold_table(rows, ("channel",), width),
        "Read and decoded: tokens of all arms; crosses: bytes of all messages as they are sent.",
        f"About {_duration(found.seconds)} here: {_duration(found.loading_s)} to load, "
        f"{_duration(found.seconds - found.loading_s - found.latency_s)} to answer, {_duration(found.latency_s)} for "
        f"{found.timed:,} timed questions; from {found.tried:,} questions that were tried.",
        *_shown(questions),
        "Nothing would be refused, and nothing was written.",
    ]
    return "\n".join(line if "\n" in line else fill(line, width) for line in lines)


def _cells(part: Part, questions: int, new_tokens: int) -> dict[str, str]:
    arms = part.answers / max(questions, 1)
    return {
        "channel": f"{part.name} and {part.arms - 1} controls" if part.arms > 1 else part.name,
        "answers": f"{part.answers:,}",
        "read": "" if part.prompt_tokens is None else f"~{_round(part.prompt_tokens * part.answers):,}",
        "decoded": f"<={round(new_tokens * arms):,}",
        "crosses": "" if not part.payload_bytes else f"~{bytes_text(part.payload_bytes * questions)}",
        "time": f"~{_duration(part.seconds)}",
    }


def _shown(questions: int) -> list[str]:
    """What a single paired comparison of so many independent questions finds, and how many others take."""
    found = stats.detectable_effect(questions, DISCORDANCE) if questions else None
    least = "no difference" if found is None else f"differences from {100 * found:.1f} points"
    needed = ", ".join(
        f"{points} points {stats.questions_needed(points / 100, DISCORDANCE):,}" for points in WANTED_POINTS
    )
    return [
        f"{questions:,} questions find {least} (80% power, level 0.05, one comparison, "
        f"{100 * DISCORDANCE:.0f}% of the answers differing); questions needed: {needed}."
    ]


def _round(value: float) -> int:
    """To two significant digits."""
    return int(float(f"{value:.2g}"))


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
