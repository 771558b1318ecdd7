"""What a run would do, without doing it: arms, questions, tokens, bytes, time, and what its questions can show.

Everything is read as a run reads it, so what a run refuses before its first question is refused here in the same words.
Tokens, bytes and seconds are extrapolated from a few questions that are answered and thrown away; nothing is written.
Times are medians, so that a moment in which the machine was busy does not count for every question.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean, median_low
from textwrap import fill

import pandas as pd

from harness import stats
from harness.benchmarks.questions import Benchmark, Item, with_datasets_dir
from harness.channels.control_registry import CONTROLS
from harness.channels.engine import answers_itself
from harness.channels.interface import Group
from harness.config import RunConfig
from harness.distributed import Ranks
from harness.evaluation.accuracy_pass import answer_task, error_line, needs_mean, samples_missing
from harness.evaluation.latency_pass import timed_alone, timed_questions
from harness.evaluation.run import one_run_at_a_time, prepared
from harness.evaluation.run_state import Tally
from harness.inference.batching import Budget
from harness.records.folder import refuse_taken
from harness.records.schema import Sample
from harness.results.formatting import bytes_text
from harness.results.terminal_table import WIDTH, fold_table, text_cells

SECONDS = 10.0
DISCORDANCE = 0.2
WANTED_POINTS = (3, 5, 10)
_ALONE = 3  # questions of a channel that are timed by themselves
_FAIR = 0.25  # of what a channel takes in the run
_COLUMNS = {
    "read": "read: tokens of all prompts",
    "decoded": "decoded: tokens of all answers",
    "crosses": "crosses: bytes of all messages as they are sent",
}


@dataclass(frozen=True)
class Part:
    """One channel with its controls.

    Attributes:
        arms: the channel as it is, and its controls.
        answers: of all arms.
        prompt_tokens, payload_bytes: means of the questions that were tried; None where none could be answered.
        answer_s: seconds an answer in a batch, the median of batches.
        alone_s: seconds an answer by itself, None where none is timed so.
        means: messages that make up mean messages.
        failed: the error of the first question where every one that was tried failed.
    """

    name: str
    arms: int
    answers: int
    prompt_tokens: float | None
    payload_bytes: float | None
    answer_s: float
    alone_s: float | None
    means: int
    failed: str = ""

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
        whole: questions that the tasks have, asked or not.
    """

    tasks: dict[str, int]
    parts: list[Part]
    new_tokens: int
    timed: int
    loading_s: float
    tried: int
    whole: int

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
        whole=sum(benchmark.sizes.values()),
    )


def _tried(group: Group, benchmark: Benchmark, config: RunConfig, seconds: float) -> tuple[Part, int]:
    """Answers batches of a channel until its time is over; controls that need a mean message take no part."""
    kept = tuple(name for name in group.controls if "mean" not in CONTROLS.get(name).inputs)
    measured = Group(group.channel, kept, group.name_control)
    items = benchmark.all_items
    random.Random(config.seed).shuffle(items)  # noqa: S311 - reproducible, not secret
    answers = sum(samples_missing(group, asked, frozenset()) for asked in benchmark.items.values())
    samples, answer_s, tried = _batches(measured, items, config, seconds, answers)
    own = [sample for sample in samples if not sample.control]
    part = Part(
        name=group.channel.name,
        arms=1 + len(group.controls),
        answers=answers,
        prompt_tokens=_mean([sample.prompt_tokens for sample in own]),
        payload_bytes=_mean([sample.payload_bytes for sample in own]),
        answer_s=answer_s,
        alone_s=_alone_s(group, items, config),
        means=sum(
            min(config.calibration_samples, len(asked))
            for asked in benchmark.items.values()
            if needs_mean(group, asked)
        ),
        failed=_all_failed(own),
    )
    return part, tried


def _all_failed(samples: Sequence[Sample]) -> str:
    """The first error, where there is no answer at all."""
    return error_line(samples[0]) if samples and not any(sample.done for sample in samples) else ""


def _batches(
    group: Group, items: Sequence[Item], config: RunConfig, seconds: float, answers: int
) -> tuple[list[Sample], float, int]:
    """Samples, seconds an answer and questions of what was tried, after one question that warms up.

    Ends when the time is over, but not with a single batch, in which the machine may have been busy with something
    else; and before the next batch would pass a fair share of all `answers`.
    """
    _answered(group, items[:1], config)
    size = min(max(config.batch_size, 2), max(2, ceil(_FAIR / 2 * len(items))))
    samples: list[Sample] = []
    times: list[float] = []
    spent = 0.0
    for start in range(0, len(items), size):
        made, took = _answered(group, items[start : start + size], config)
        samples += made
        times.append(took / max(len(made), 1))
        spent += took
        over = spent >= seconds and len(times) > 1
        if over or spent + took > _FAIR * answers * median_low(times):
            break
    return samples, median_low(times), min(size * len(times), len(items))


def _answered(group: Group, items: Sequence[Item], config: RunConfig) -> tuple[list[Sample], float]:
    """Answers one batch; what was answered, and seconds."""
    began = time.monotonic()
    budget = Budget(config.batch_size, config.max_batch_tokens)
    found = answer_task(group, items, frozenset(), budget, config.seed, (), Tally())
    samples = [sample for batch, _ in found for sample in batch]
    return samples, time.monotonic() - began


def _alone_s(group: Group, items: Sequence[Item], config: RunConfig) -> float | None:
    if group.name_control or answers_itself(group.channel) or not config.latency_samples:
        return None
    times = []
    for item in items[:_ALONE]:
        began = time.monotonic()
        timed_alone(group.channel, item.request)
        times.append(time.monotonic() - began)
    return median_low(times)


def _mean(values: Sequence[int]) -> float | None:
    return fmean(values) if values else None


def render(found: Plan, width: int = WIDTH) -> str:
    """Writes a plan for a terminal."""
    questions = sum(found.tasks.values())
    rows = pd.DataFrame([_cells(part, questions, found.new_tokens) for part in found.parts])
    shown = text_cells({str(name): rows[name] for name in rows})
    asked = ", ".join(f"{count:,} of {task}" for task, count in list(found.tasks.items())[:6])
    more = f" and {len(found.tasks) - 6} more tasks" if len(found.tasks) > 6 else ""
    lines = [
        f"Questions: {questions:,} ({asked}{more}).",
        fold_table(shown, ("channel",), width),
        *filter(None, ["; ".join(said for name, said in _COLUMNS.items() if name in shown)]),
        _time(found),
        *_shown(questions, found.whole),
        _end(found),
    ]
    return "\n".join(line if "\n" in line else fill(line, width) for line in lines)


def _end(found: Plan) -> str:
    failed = [part for part in found.parts if part.failed]
    if not failed:
        return "Nothing would be refused, and nothing was written."
    names = ", ".join(part.name for part in failed)
    return (
        f"Every question that was tried failed through {names}, so that a run would stop; the first said: "
        f"{failed[0].failed.rstrip('.')}. Nothing was written."
    )


def _time(found: Plan) -> str:
    answering = found.seconds - found.loading_s - found.latency_s
    parts = [f"{_duration(found.loading_s)} to load", f"{_duration(answering)} to answer"]
    if found.timed and found.latency_s:
        parts.append(f"{_duration(found.latency_s)} for {found.timed:,} timed questions")
    return f"About {_duration(found.seconds)} here: {', '.join(parts)}; from {found.tried:,} questions that were tried."


def _cells(part: Part, questions: int, new_tokens: int) -> dict[str, str]:
    decoded = round(new_tokens * part.answers / max(questions, 1))
    controls = {1: "", 2: " and 1 control"}.get(part.arms, f" and {part.arms - 1} controls")
    return {
        "channel": f"{part.name}{controls}",
        "answers": f"{part.answers:,}",
        "read": f"~{_round(part.prompt_tokens * part.answers):,}" if part.prompt_tokens else "",
        "decoded": f"<={decoded:,}" if decoded else "",
        "crosses": "" if not part.payload_bytes else f"~{bytes_text(part.payload_bytes * questions)}",
        "time": f"~{_duration(part.seconds)}",
    }


def _shown(questions: int, whole: int) -> list[str]:
    """What a single paired comparison of so many independent questions finds, and how many others take."""
    found = stats.detectable_effect(questions, DISCORDANCE) if questions else None
    least = "no difference" if found is None else f"differences from {100 * found:.1f} points"
    needed = {points: stats.questions_needed(points / 100, DISCORDANCE) for points in WANTED_POINTS}
    listed = ", ".join(f"{points} points {count:,}" for points, count in needed.items())
    few = f"; there are only {whole:,}" if whole < max(needed.values()) else ""
    return [
        f"{questions:,} questions find {least} (80% power, level 0.05, one comparison, "
        f"{100 * DISCORDANCE:.0f}% of the answers differing); questions needed: {listed}{few}."
    ]


def _round(value: float) -> int:
    """To two significant digits."""
    return int(float(f"{value:.2g}"))


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
