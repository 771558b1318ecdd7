"""One task through every arm of a channel, batch by batch.

Guarantees that the mean message and every changed one depend on the task's questions and the seed alone, and that a
question that is done is never asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.attempts import Failed, attempted
from harness.channels.arms import Group
from harness.channels.base import PromptTooLong, answers_itself
from harness.channels.control_registry import CONTROLS
from harness.channels.controls import Control, band_means
from harness.channels.engine import Arm, run
from harness.channels.messages import Message, TensorMessage
from harness.errors import RunError
from harness.inference.batching import Budget
from harness.inference.types import Answer, CallStats, Query, Request
from harness.prompts import fingerprint_text
from harness.ranks import Turns
from harness.records.schema import Failure, Sample
from harness.registry import resolve
from harness.scoring import ScoreError, fields_of, score

Key = tuple[str, str, str, str]
Means = tuple[torch.Tensor, ...]
_MESSAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Attributes:
        document: canonical, see `tasks`.
        instances: lm-eval's requests for it, in order.
        lm_eval_task: scores its answers; None where they are not scored.
        request: what is asked of a channel.
        rendered_sha256: of its prompt as the models of a run read it, see `harness.rendering`; "" before that.
        cluster: see `harness.duplicates`.
    """

    task: str
    position: int
    document: dict[str, Any]
    request: Request
    instances: tuple[Any, ...] = ()
    lm_eval_task: Any = None
    rendered_sha256: str = ""
    cluster: str = ""

    @property
    def doc_id(self) -> str:
        """The question's own id, or its place."""
        return str(self.document.get("id", self.position))

    @property
    def prompt_sha256(self) -> str:
        """Of everything that is asked, as the models read it."""
        r = self.request
        extra = [r.options, r.max_new_tokens, r.stops, r.query.t2t_prompt, r.query.question or ""]
        extra += [self.rendered_sha256] if self.rendered_sha256 else []
        if r.query.sharer_view is not None:
            view = r.query.sharer_view
            extra += [fingerprint_text(view.conversation, [view.question, view.context])]
        return hashlib.sha256(fingerprint_text(r.query.receiver, extra).encode()).hexdigest()


@dataclass
class Tally:
    """CallStats done by each arm, by name."""

    work: dict[str, CallStats] = field(default_factory=dict)

    def of(self, group: Group, arm: Arm) -> CallStats:
        """The account of one arm."""
        return self.work.setdefault(arm_name(group, arm.control), CallStats())


def arm_name(group: Group, control: str) -> str:
    """Name of an arm in counters: ``c2c`` or ``c2c/mean``."""
    control = control or group.name_control
    return f"{group.channel.name}/{control}" if control else group.channel.name


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


def missing(group: Group, items: Sequence[Item], done: Set[Key]) -> int:
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
