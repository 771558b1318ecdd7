"""The latency pass: questions answered one at a time, channels in turn, on a machine whose load is recorded.

Guarantees that, after warm-up, compared channels run next to each other in one process, in an order that rotates from
question to question, that each pays once for tokenising its prompts, and that a timed answer is checked against the
accuracy pass. Controls are not timed: they cost what their channel costs.

The processor time of this process and of the whole machine is recorded, so that a busy machine is visible beside every
timing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import psutil
import torch

from harness.benchmarks.answer_parsing import ScoreError, most_likely
from harness.benchmarks.questions import Benchmark, Item
from harness.channels.engine import answer_one, answers_itself
from harness.channels.interface import Channel
from harness.config import RunConfig
from harness.evaluation.accuracy_pass import unscored_sample
from harness.evaluation.run_state import Session
from harness.inference.types import Answer, CallStats, Clock, Request
from harness.records.folder import RunFolder
from harness.records.schema import Sample, Timing

# Time that a hypervisor gave to somebody else is work of others. Guests are part of `user` and `nice` already.
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class Moment(NamedTuple):
    """Readings of three clocks, in seconds: of the wall, of this process, of all processors."""

    wall_s: float
    own_s: float
    machine_s: float


@dataclass(frozen=True)
class Spent:
    """What passed since a moment.

    Attributes:
        cpu_s: processor seconds of this process, over all its threads.
        load: cores of the machine that were busy on average. The system counts in ticks, mostly of 10 ms, so that only
            the mean over many timings is exact.
    """

    cpu_s: float
    load: float


def read_clocks() -> Moment:
    """Reads the clocks."""
    times = psutil.cpu_times()
    machine_s = sum(getattr(times, name, 0.0) for name in _BUSY)
    return Moment(time.perf_counter(), time.process_time(), machine_s)


def spent_since(start: Moment) -> Spent:
    """Returns what this process and the machine did since `start`."""
    end = read_clocks()
    wall_s = max(end.wall_s - start.wall_s, 1e-9)
    return Spent(end.own_s - start.own_s, max(end.machine_s - start.machine_s, 0.0) / wall_s)


T = TypeVar("T")

Known = dict[tuple[str, str, str], Sample]

ROUNDS = 2


class Timed(NamedTuple):
    """One answer with the clock that ran beside it and the processor time that it took."""

    clock: Clock
    answer: Answer
    spent: Spent


class Turn(NamedTuple):
    """One question through every channel: its timings, and how many channels failed to answer it."""

    timings: list[Timing]
    failed: int


def time_questions(
    channels: Sequence[Channel],
    items: Sequence[Item],
    known: Known,
    warm_up: int,
    equal_tokens: int | None = None,
) -> Iterator[Turn]:
    """Times questions through every channel.

    Args:
        channels: what is compared.
        items: the questions; the first `warm_up` are answered once more before timing starts.
        known: (task, doc_id, channel) -> the accuracy pass's sample.
        warm_up: questions that are answered untimed.
        equal_tokens: make every channel decode exactly so many tokens.

    Yields:
        What one question gave.
    """
    for item in items[:warm_up]:
        for channel in channels:
            timed_alone(channel, item.request, equal_tokens)
    for round_ in range(ROUNDS):
        for number, item in enumerate(items):
            turn = (number + round_) % len(channels)
            turn_timings, failed = [], 0
            for channel in [*channels[turn:], *channels[:turn]]:
                timed = timed_alone(channel, item.request, equal_tokens)
                failed += timed.answer.fault is not None
                if timed.answer.fault is None and _of_length(timed.answer, item, equal_tokens):
                    turn_timings.append(_timing(channel, item, timed, known, round_, equal_tokens))
            yield Turn(turn_timings, failed)


def draw(items: Sequence[T], count: int, seed: int) -> list[T]:
    """Picks the questions to time: a fixed draw by seed, in the order of the task."""
    chosen = random.Random(seed).sample(range(len(items)), min(count, len(items)))  # noqa: S311 - not for secrets
    return [items[i] for i in sorted(chosen)]


def timed_alone(channel: Channel, request: Request, equal_tokens: int | None = None) -> Timed:
    """Answers one request alone, under a clock."""
    device = channel.answers.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    work = CallStats(clock=Clock(device))
    if equal_tokens is not None and not request.options:
        request = replace(request, exactly=equal_tokens, query=replace(request.query, room=equal_tokens))
    # Every channel pays for reading its prompts, once; nothing remembered from the accuracy pass may help one of them.
    channel.forget()
    before = read_clocks()
    work.clock.mark("start")
    answer = answer_one(channel, request, work)
    return Timed(work.clock, answer, spent_since(before))


def _of_length(answer: Answer, item: Item, equal_tokens: int | None) -> bool:
    """Whether an answer has the length that was asked for; one that names a label is not decoded at all."""
    return equal_tokens is None or bool(item.request.options) or len(answer.tokens) == equal_tokens


def _timing(channel: Channel, item: Item, timed: Timed, known: Known, round_: int, equal_tokens: int | None) -> Timing:
    sample = unscored_sample(item, channel.name, "", timed.answer)
    before = known.get((item.task, item.doc_id, channel.name))
    compared = before is not None and before.done and equal_tokens is None
    return Timing(
        task=item.task,
        doc_id=item.doc_id,
        position=item.position,
        channel=channel.name,
        round=round_,
        **timing_fields(timed, item.request),
        tokens_out=sample.tokens_out,
        equal_length=equal_tokens is not None,
        same_answer=same_answer(sample, before) if compared and before is not None else None,
    )


def timing_fields(timed: Timed, request: Request) -> dict[str, Any]:
    """What was measured of one answer, under the names of `Timing`."""
    clock = timed.clock
    return {
        "stages_s": clock.stages_s(),
        "ttft_s": clock.since_start_s("first_token"),
        "e2e_s": clock.since_start_s("first_token" if request.options else "answered"),
        "payload_bytes": timed.answer.payload_bytes,
        "cpu_s": timed.spent.cpu_s,
        "load": timed.spent.load,
    }


def same_answer(a: Sample, b: Sample) -> bool:
    """Whether two samples say the same: equal text, or the same most likely option."""
    try:
        return a.text == b.text and _most_likely(a) == _most_likely(b)
    except ScoreError:
        return False


def _most_likely(sample: Sample) -> str | None:
    return None if sample.loglikelihoods is None else most_likely(sample.loglikelihoods, sample.labels)


def timed_questions(config: RunConfig, benchmark: Benchmark) -> int:
    """How often each channel answers a question alone, repetitions and warm-up included."""
    if not config.latency_samples:
        return 0
    drawn = [min(len(items), config.latency_samples) for items in _headlines(benchmark)]
    return len(_lengths(config)) * sum(ROUNDS * count + min(config.latency_warm_up, count) for count in drawn)


def time_answers(session: Session, folder: RunFolder) -> None:
    """Times every channel on questions drawn from the task, interleaved."""
    for made in _timed(session):
        folder.add_timings(made)
        session.timings += made


def follow_latency_pass(session: Session) -> None:
    """What a further process does meanwhile: its part of the timed answers where all go in step, otherwise nothing."""
    if session.ranks.in_step:
        for _ in _timed(session):
            pass


def answers_to_time(session: Session) -> int:
    """How many answers this process will give under a clock, those for warming up not counted."""
    if not (session.ranks.first or session.ranks.in_step):
        return 0
    config = session.config
    drawn = sum(min(len(items), config.latency_samples) for items in _headlines(session.benchmark))
    return ROUNDS * len(_lengths(config)) * drawn * len(_timed_channels(session))


def _timed_channels(session: Session) -> list[Channel]:
    groups = [g for g in session.cast.groups if not g.name_control]
    return [g.channel for g in groups if not answers_itself(g.channel)]


def _lengths(config: RunConfig) -> list[int | None]:
    return [None, config.latency_equal_tokens] if config.latency_equal_tokens else [None]


def _timed(session: Session) -> Iterator[list[Timing]]:
    config, channels = session.config, _timed_channels(session)
    if not config.latency_samples or not channels:
        return
    known = {(s.task, s.doc_id, s.channel): s for s in session.samples if s.control == ""}
    drawn = [draw(items, config.latency_samples, config.seed) for items in _headlines(session.benchmark)]
    session.bar.entitle("latency, batch 1")
    for items in drawn:
        for tokens in _lengths(config):
            for turn in time_questions(channels, items, known, config.latency_warm_up, tokens):
                session.bar.advance(len(channels))
                session.untimed += turn.failed
                yield turn.timings


def _headlines(benchmark: Benchmark) -> Iterator[list[Item]]:
    """Questions to draw from: a group as one; what a larger group holds is not drawn from again."""
    seen: set[str] = set()
    for tasks in sorted(benchmark.groups.values(), key=len, reverse=True):
        if not seen.issuperset(tasks):
            yield [item for task in tasks for item in benchmark.items[task]]
        seen.update(tasks)
