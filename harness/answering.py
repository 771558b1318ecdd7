"""The accuracy pass: every question through every arm, dealt out in batches over the processes of a run.

Guarantees that every batch is journalled before the next is asked, and that what is asked together, and so every
answer to the last bit, does not depend on how many processes there are.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.accuracy import Means, answer_task, arm_name, left_out, mean_message, missing, needs_mean
from harness.channels.arms import Group
from harness.channels.routed import FLOOR
from harness.errors import RunError
from harness.inference.batching import Budget
from harness.memory import peak_bytes
from harness.progress import progress
from harness.records.loading import finite, latest
from harness.records.schema import Sample
from harness.rendering import check_unchanged
from harness.session import Session


@dataclass(frozen=True)
class Work:
    """What the accuracy pass took, over all processes.

    Attributes:
        counters: arm -> counts, summed.
        peak_memory_bytes: a process each, in order of rank.
    """

    counters: dict[str, dict[str, int]]
    peak_memory_bytes: list[int]


def answer_all(session: Session) -> Work:
    """Answers this process's share, then brings all answers to the first process.

    Raises:
        UserError: a question cannot be put at all.
        RunError: too many samples failed, the disk is full or a process is gone.
    """
    means = _means(session)
    session.ranks.together(lambda: _answer_share(session, means))
    work = _collect(session)
    session.ranks.together(lambda: stop_on_errors(session))
    return work


def stop_on_errors(session: Session) -> None:
    """Stops once the errors alone exceed what the whole run allows."""
    failed = [s for s in session.samples if s.error is not None]
    arms = sum(1 + len(g.controls) for g in session.cast.groups)
    rate = session.config.max_error_rate
    allowed = max(rate * arms * len(session.benchmark.all_items), 1) if rate else 0  # one is no rate yet
    if failed and len(failed) > allowed:
        first = failed[0].error
        raise RunError(
            f"{len(failed)} of {len(session.samples)} samples failed, more than --max_error_rate "
            f"{rate:g} allows; the first said: {first.message if first else ''}"
        )


def arms_left_out(session: Session) -> list[str]:
    """Says which controls are left out, since a task of a single question has no other one to lend a message."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for task, items in session.benchmark.items.items():
        for group in session.cast.groups:
            if controls := left_out(group, items):
                lacking.setdefault((group.channel.name, " and ".join(controls)), []).append(task)
    return [
        f"{controls} of {channel} left out: another question's message is needed, and a single question was asked of "
        f"{tasks[0] if len(tasks) == 1 else f'each of {len(tasks)} tasks'}."
        for (channel, controls), tasks in lacking.items()
    ]


def tell(notes: Sequence[str]) -> None:
    """Prints what went wrong without ending the run."""
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)


def in_order(session: Session) -> list[Sample]:
    """One sample a question and arm: by channel and control as configured, then task, then place in the task."""
    config = session.config
    controls = ["", *config.controls, FLOOR]
    tasks = {name: place for place, name in enumerate(session.benchmark.items)}
    kept = latest(map(finite, session.samples))
    return sorted(
        kept,
        key=lambda s: (config.channels.index(s.channel), controls.index(s.control), tasks[s.task], s.position),
    )


def _means(session: Session) -> dict[str, dict[str, Means]]:
    """Mean messages by channel and task; each made by one process, so that more processes make them faster."""
    config, items, made = session.config, session.benchmark.items, {}
    for group in session.cast.groups:
        meant = [task for task in items if needs_mean(group, items[task])]
        if not meant:
            continue
        open_ = [task for task in meant if missing(group, items[task], session.done)]
        title, total = f"{group.channel.name}, mean messages{_rank(session)}", session.ranks.share(len(open_))
        with progress(title, total, _shown(session)) as bar:

            def mean(task: str, group: Group = group) -> Means:
                found = mean_message(
                    group, items[task], config.seed, config.calibration_samples, session.tally, config.batch_size
                )
                bar.advance()
                return found

            made[group.channel.name] = session.ranks.dealt(open_, mean)
    return made


def _answer_share(session: Session, means: dict[str, dict[str, Means]]) -> None:
    turns, budget = session.ranks.turns(), Budget(session.config.batch_size, session.config.max_batch_tokens)
    for group in session.cast.groups:
        name, tasks = group.channel.name, session.benchmark.items
        total = session.ranks.share(sum(missing(group, items, session.done) for items in tasks.values()))
        title = f"{name}{' and controls' if group.controls else ''}{_rank(session)}"
        with progress(title, total, _shown(session)) as bar:
            for task, asked in tasks.items():
                mean = means.get(name, {}).get(task, ()) if needs_mean(group, asked) else ()
                found = answer_task(group, asked, session.done, budget, session.config.seed, mean, session.tally, turns)
                by_place = {item.position: item for item in asked}
                for made, notes in found:
                    check_unchanged(session.cast, {s.position: by_place[s.position] for s in made}.values())
                    session.journal(made)
                    session.samples += made
                    bar.advance(len(made))
                    _note(session, notes)
                    stop_on_errors(session)
                    session.ranks.check()


def _collect(session: Session) -> Work:
    own = {name: work.counters.as_dict() for name, work in session.tally.work.items() if not work.busy_s}
    earlier = len(session.samples) if session.ranks.first else 0
    peak = peak_bytes(session.cast.device)
    counters: dict[str, Counter[str]] = {}
    peaks = []
    told = (session.samples[earlier:], own, peak, session.notes)
    if not session.ranks.keeps:
        told = ([], {}, peak, [])
    for rank, part in enumerate(session.ranks.gather(told)):
        samples, counts, bytes_, notes = part
        session.samples += samples
        tell([f"Rank {rank}: {note}" for note in notes])
        peaks.append(bytes_)
        for name, counted in counts.items():
            counters.setdefault(name, Counter()).update(counted)
    arms = [arm_name(g, c) for g in session.cast.groups for c in ("", *g.controls)]
    return Work({name: dict(counters[name]) for name in arms if name in counters}, peaks)


def _note(session: Session, notes: Sequence[str]) -> None:
    if session.ranks.first:
        tell(notes)
    else:
        session.notes += notes


def _rank(session: Session) -> str:
    ranks = session.ranks
    return f", rank {ranks.rank} of {ranks.world}" if ranks.world > 1 else ""


def _shown(session: Session) -> bool:
    return session.config.progress and session.ranks.first
