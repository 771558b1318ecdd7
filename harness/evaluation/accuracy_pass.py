"""The accuracy pass: every question through every arm, scored and recorded batch by batch.

Batches are dealt out over the processes of a run, and each is journalled before the next is asked; a question that is
done is never asked again. Guarantees that which questions are asked together, and therefore every answer to the last
bit, does not depend on the number of processes, and that the mean message and every changed one depend on the task's
questions and the seed alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import torch

from harness.benchmarks.answer_parsing import ScoreError, fields_of, score
from harness.benchmarks.questions import Item
from harness.channels.control_registry import CONTROLS
from harness.channels.controls import Control, band_means
from harness.channels.engine import Arm, Failed, answers_itself, attempted, run
from harness.channels.interface import Group, PromptTooLong
from harness.channels.messages import Message, TensorMessage
from harness.channels.routed import FLOOR
from harness.errors import RunError
from harness.evaluation.prompt_record import check_unchanged
from harness.evaluation.run_state import Key, Session, Tally, arm_name
from harness.inference.batching import Budget, Turns
from harness.inference.memory import peak_bytes
from harness.inference.types import Answer, CallStats, Query
from harness.records.journal import latest_samples, without_nonfinite
from harness.records.schema import Failure, Sample
from harness.registry import resolve
from harness.results.formatting import arm_text

Means = tuple[torch.Tensor, ...]

_MESSAGES_AT_ONCE = 8


def answer_task(
    group: Group,
    items: Sequence[Item],
    done: Set[Key],
    budget: Budget,
    seed: int,
    means: Means,
    tally: Tally,
    turns: Turns | None = None,
) -> Iterator[tuple[list[Sample], list[str]]]:
    """Answers one task's open questions through a channel and its controls.

    Args:
        group: the channel with its controls.
        items: all questions of the task, answered or not.
        done: (task, doc_id, channel, control) that need no answer any more.
        budget: how large batches are.
        seed: of the controls.
        means: the task's mean message, see `mean_message`; empty where no control needs one.
        tally: is charged.
        turns: says which batches are this process's.

    Yields:
        The samples of a batch, and notes about what went wrong on the way.
    """
    controls = controls_of(group, items)
    open_ = {i for i, item in enumerate(items) if any(_key(item, group, c) not in done for c in controls)}
    if not open_:
        return
    arms = _arms(group, controls[1:], seed, means)
    work = [tally.of(group, arm) for arm in arms]
    for outcome in run(group.channel, arms, [i.request for i in items], budget, work, open_, turns):
        made = []
        for control, answers in zip(controls, outcome.answers, strict=True):
            for index, answer in zip(outcome.indices, answers, strict=True):
                if _key(items[index], group, control) not in done:
                    made.append(to_sample(items[index], group.channel.name, control, answer))
        yield made, outcome.notes


def samples_missing(group: Group, items: Sequence[Item], done: Set[Key]) -> int:
    """How many samples of a channel and its controls are still to be made of one task's questions."""
    return sum(_key(item, group, c) not in done for item in items for c in controls_of(group, items))


def controls_of(group: Group, items: Sequence[Item]) -> list[str]:
    """The channel's arms of one task by their controls; of a single question none that is made of others' messages."""
    return [group.name_control, *(c for c in group.controls if len(items) > 1 or not CONTROLS.get(c).of_others)]


def left_out(group: Group, items: Sequence[Item]) -> list[str]:
    """The controls that one task's questions are too few for."""
    return [c for c in group.controls if c not in controls_of(group, items)]


def needs_mean(group: Group, items: Sequence[Item]) -> bool:
    """Whether a control of one task's questions needs a mean message."""
    return any("mean" in CONTROLS.get(name).inputs for name in controls_of(group, items) if name)


def to_sample(item: Item, channel: str, control: str, answer: Answer) -> Sample:
    """Scores an answer and makes it a line of the journal."""
    sample = unscored_sample(item, channel, control, answer)
    if sample.error is not None:
        return sample
    labels = item.document["labels"]
    responses = [(s.loglikelihood, s.greedy) for s in answer.scored] if item.request.options else [answer.text or ""]
    try:
        update = fields_of(score(item.lm_eval_task, item.instances, responses, labels))
    except ScoreError as error:
        update = {"error": Failure(type="ScoreError", message=str(error))}
    return sample.model_copy(update=update)


def unscored_sample(item: Item, channel: str, control: str, answer: Answer) -> Sample:
    """Makes an answer a line of the journal, without its scores."""
    document = item.document
    fault = answer.fault
    return Sample(
        task=item.task,
        doc_id=item.doc_id,
        position=item.position,
        channel=channel,
        control=control,
        kind="letters" if item.request.options else "generate",
        prompt_sha256=item.prompt_sha256,
        subject=document.get("subject", ""),
        category=document.get("category", ""),
        cluster=item.cluster,
        labels=list(document.get("labels", [])),
        key=str(document.get("key", "")),
        message_text=answer.message_text,
        payload_bytes=answer.payload_bytes,
        prompt_tokens=answer.prompt_tokens,
        tokens_out=0 if fault else len(answer.tokens) or (1 if answer.scored else 0),
        entropy=answer.entropy,
        text=answer.text,
        loglikelihoods=[s.loglikelihood for s in answer.scored] if answer.scored else None,
        error=Failure(type=fault.type, message=fault.message, trace=fault.trace) if fault else None,
    )


def _key(item: Item, group: Group, control: str) -> Key:
    return (item.task, item.doc_id, group.channel.name, control)


def _arms(group: Group, controls: Sequence[str], seed: int, means: Means) -> list[Arm]:
    return [Arm(group.channel, group.name_control), *(_arm(group, name, seed, means) for name in controls)]


def _arm(group: Group, name: str, seed: int, means: Means) -> Arm:
    entry = CONTROLS.get(name)
    if entry.reader:
        return Arm(resolve(entry.reader)(group.channel), name)
    moved: Means = ()
    if "mean" in entry.inputs and not answers_itself(group.channel):
        moved = tuple(mean.to(group.channel.answers.device) for mean in means)
    return Arm(group.channel, name, Control(entry, seed, moved))


@torch.inference_mode()
def mean_message(
    group: Group, items: Sequence[Item], seed: int, calibration: int, tally: Tally, at_once: int = _MESSAGES_AT_ONCE
) -> Means:
    """Averages the messages of a fixed draw of a task's questions.

    Args:
        group: the channel.
        items: all questions of the task.
        seed: of the draw.
        calibration: how many are drawn.
        tally: is charged.
        at_once: prompts that may be sent together; never more than 8, so that the mean depends little on it.

    Returns:
        A part a sharer on the CPU, see `harness.channels.controls.band_means`.

    Raises:
        RunError: a message cannot be sent even alone.
    """
    drawn = sorted(items, key=lambda i: hashlib.sha256(f"{seed} {i.doc_id}".encode()).digest())[:calibration]
    work = tally.work.setdefault(f"{group.channel.name}/mean", CallStats())
    fitting = [i.request.query for i in drawn if _fits(group, i)]
    size = min(at_once, _MESSAGES_AT_ONCE)
    parts = [fitting[i : i + size] for i in range(0, len(fitting), size)]
    messages = (message for part in parts for message in _sent(group, part, work))
    found = band_means(m for m in messages if isinstance(m, TensorMessage))
    return tuple(part.cpu() for part in found)


def _sent(group: Group, queries: Sequence[Query], work: CallStats) -> Iterator[Message]:
    """Sends prompts together, or in halves where that fails."""
    message = attempted(lambda: group.channel.send(queries, work))
    if not isinstance(message, Failed):
        yield message
        return
    if len(queries) == 1:
        raise RunError(
            f"The mean message of {group.channel.name} cannot be found ({message.fault.type}: "
            f"{message.fault.message[:200]}); leave mean out of --controls."
        )
    middle = len(queries) // 2
    yield from _sent(group, queries[:middle], work)
    yield from _sent(group, queries[middle:], work)


def _fits(group: Group, item: Item) -> bool:
    try:
        group.channel.prompt_length(item.request.query)
    except PromptTooLong:
        return False
    return True


@dataclass(frozen=True)
class PassStats:
    """What the accuracy pass took, over all processes.

    Attributes:
        counters: arm -> counts, summed.
        peak_memory_bytes: a process each, in order of rank.
    """

    counters: dict[str, dict[str, int]]
    peak_memory_bytes: list[int]


def answer_all(session: Session) -> PassStats:
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
        raise RunError(
            f"{len(failed)} of {len(session.samples)} samples failed, more than --max_error_rate "
            f"{rate:g} allows; the first said: {error_line(failed[0])}"
        )


def error_line(sample: Sample) -> str:
    """Names the arm and the kind of a sample's error: what somebody's control raises may say little by itself."""
    found = sample.error
    return f"{arm_text(*sample.arm)}: {found.type}: {found.message}" if found else ""


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


def print_notes(notes: Sequence[str]) -> None:
    """Prints what went wrong without ending the run."""
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)


def in_order(session: Session) -> list[Sample]:
    """One sample a question and arm: by channel and control as configured, then task, then place in the task."""
    config = session.config
    controls = ["", *config.controls, FLOOR]
    tasks = {name: place for place, name in enumerate(session.benchmark.items)}
    kept = latest_samples(map(without_nonfinite, session.samples))
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
        open_ = [task for task in meant if samples_missing(group, items[task], session.done)]
        session.bar.entitle(f"{group.channel.name}, mean messages{_rank(session)}")

        def mean(task: str, group: Group = group) -> Means:
            return mean_message(
                group, items[task], config.seed, config.calibration_samples, session.tally, config.batch_size
            )

        made[group.channel.name] = session.ranks.dealt(open_, mean)
    return made


def _answer_share(session: Session, means: dict[str, dict[str, Means]]) -> None:
    turns, budget = session.ranks.turns(), Budget(session.config.batch_size, session.config.max_batch_tokens)
    tasks, groups = session.benchmark.items, session.cast.groups
    for group in groups:
        session.bar.entitle(f"{group.channel.name}{' and controls' if group.controls else ''}{_rank(session)}")
        for task, asked in tasks.items():
            mean = means.get(group.channel.name, {}).get(task, ()) if needs_mean(group, asked) else ()
            found = answer_task(group, asked, session.done, budget, session.config.seed, mean, session.tally, turns)
            _keep(session, asked, found)


def answers_open(session: Session) -> int:
    """How many answers this process has still to give, not counting those that are timed."""
    return sum(session.ranks.share(_open(session, group)) for group in session.cast.groups)


def _open(session: Session, group: Group) -> int:
    return sum(samples_missing(group, items, session.done) for items in session.benchmark.items.values())


def _keep(session: Session, asked: Sequence[Item], found: Iterable[tuple[list[Sample], list[str]]]) -> None:
    """Journals batches as they come."""
    by_place = {item.position: item for item in asked}
    for made, notes in found:
        check_unchanged(session.cast, {s.position: by_place[s.position] for s in made}.values())
        session.journal(made)
        session.samples += made
        session.bar.advance(len(made))
        _note(session, notes)
        stop_on_errors(session)
        session.ranks.check()


def _collect(session: Session) -> PassStats:
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
        print_notes([f"Rank {rank}: {note}" for note in notes])
        peaks.append(bytes_)
        for name, counted in counts.items():
            counters.setdefault(name, Counter()).update(counted)
    arms = [arm_name(g, c) for g in session.cast.groups for c in ("", *g.controls)]
    return PassStats({name: dict(counters[name]) for name in arms if name in counters}, peaks)


def _note(session: Session, notes: Sequence[str]) -> None:
    if session.ranks.first:
        print_notes(notes)
    else:
        session.notes += notes


def _rank(session: Session) -> str:
    ranks = session.ranks
    return f", rank {ranks.rank} of {ranks.world}" if ranks.world > 1 else ""
