"""Which tasks and arms are reported together, with the baselines that need no model pass.

A group is a micro average: every question counts once, whatever its task. Questions keep their task in their key, so
equal ids in two tasks never collide when samples are laid side by side.

Chance, the majority label and the oracle appear beside every option task. All three are computed from the questions and
answers of a run, so they cost nothing and no run lacks them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from harness.channels import registry
from harness.channels.control_registry import CONTROLS, FuserInUse
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.channels.registry import RECEIVER as RECEIVER_NAME
from harness.channels.registry import SHARER as SHARER_NAME
from harness.channels.spec import channel_of
from harness.config.fields import MARGIN_POINTS
from harness.records.schema import MajorityLabel, ResultRow, RunRecord, Sample, usual_label, whole_tasks

ORACLE, MAJORITY, CHANCE = ("oracle", ""), ("majority", ""), ("chance", "")

DERIVED = frozenset(channel for channel, _ in (ORACLE, MAJORITY, CHANCE))

_ASKED = ("task", "doc_id", "position", "kind", "prompt_sha256", "subject", "category", "labels", "key")

Key = tuple[str, str]

Arm = tuple[str, str]

Arms = Mapping[Arm, Mapping[Key, Sample]]


def with_baselines(tasks: Mapping[str, Arms], majority: Mapping[str, MajorityLabel]) -> dict[str, Arms]:
    """Adds the majority label, and the oracle where both models were asked, to the arms of each task.

    Args:
        tasks: answers by task, arm and question, of the tasks that are one whole.
        majority: task -> the label most often right in other splits; where it lacks one, the label most often right in
            all of these tasks is taken.
    """
    questions = {task: _questions(arms) for task, arms in tasks.items()}
    keys = [sample.key for asked in questions.values() for sample in asked.values()]
    return {task: {**arms, **_added(arms, questions[task], majority.get(task), keys)} for task, arms in tasks.items()}


def _added(
    arms: Arms, questions: Mapping[Key, Sample], majority: MajorityLabel | None, keys: Sequence[str]
) -> dict[Arm, Mapping[Key, Sample]]:
    added: dict[Arm, Mapping[Key, Sample]] = {}
    if questions and MAJORITY not in arms:
        label = majority.label if majority else usual_label(keys)
        added[MAJORITY] = {key: _constant(sample, label) for key, sample in questions.items()}
    ours, theirs = arms.get((RECEIVER_NAME, "")), arms.get((SHARER_NAME, ""))
    if ours and theirs and ORACLE not in arms:
        added[ORACLE] = {key: _either(ours[key], theirs[key]) for key in ours if key in theirs}
    return added


def chance_row(task: str, samples: Sequence[Sample]) -> ResultRow | None:
    """What guessing gives: the mean of one over the number of options, exactly; None where options are not known.

    Args:
        task: name of the task or group.
        samples: one arm's answers to all of its questions.
    """
    if not samples or not all(sample.labels for sample in samples):
        return None
    rate = fmean(1 / len(sample.labels) for sample in samples)
    counts = {"n": len(samples), "errors": 0, "invalid": 0}
    return ResultRow(
        task=task,
        channel=CHANCE[0],
        accuracy=rate,
        accuracy_low=rate,
        accuracy_high=rate,
        variant="exact",
        model_pass=False,
        **counts,
    )


def _questions(arms: Arms) -> dict[Key, Sample]:
    return {key: sample for arm in arms.values() for key, sample in arm.items() if sample.key}


def _asked(sample: Sample, arm: Arm) -> dict[str, Any]:
    return {**{name: getattr(sample, name) for name in _ASKED}, "channel": arm[0], "control": arm[1]}


def _constant(sample: Sample, label: str) -> Sample:
    right = sample.key == label
    return Sample(
        **_asked(sample, MAJORITY),
        predicted=label,
        predicted_strict=label,
        correct=right,
        correct_strict=right,
        metrics={"acc": float(right)},
    )


def _either(ours: Sample, theirs: Sample) -> Sample:
    """Right where either model is; a model that failed is not right, and both failed is an error."""
    done = [sample for sample in (ours, theirs) if sample.done]
    if not done:
        return ours.model_copy(update={"channel": ORACLE[0], "control": ORACLE[1]})
    best = next((sample for sample in done if sample.correct), done[0])
    strict = [sample.correct_strict for sample in done if sample.correct_strict is not None]
    return Sample(
        **_asked(best, ORACLE),
        predicted=best.predicted,
        predicted_strict=best.predicted_strict,
        correct=any(bool(sample.correct) for sample in done),
        correct_strict=any(strict) if strict else None,
        metrics={"acc": float(any(bool(sample.correct) for sample in done))},
    )


Groups = Mapping[str, Sequence[str]]


RECEIVER: Arm = (registry.RECEIVER, "")

CONTROL_ORDER = (
    "", "mean", "mismatched", "shuffled_tokens", "zeroed", "noise", "noise_own", "closed", "self", "random",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of a run's tasks beside the answers.

    Attributes:
        groups: group -> its tasks; a group is reported as a micro average over their questions.
        majority: task -> its majority label, where other splits told it.
        baselines: add the rows without a model pass, see `harness.results.grouping`.
        strata: groups whose tasks are strata, parts whose sizes are fixed by design.
        margin: difference below which two accuracies count as the same, as a fraction.
    """

    groups: Groups = field(default_factory=dict)
    majority: Mapping[str, MajorityLabel] = field(default_factory=dict)
    baselines: bool = False
    strata: Collection[str] = ()
    margin: float = MARGIN_POINTS / 100


NO_FACTS = Facts()


@dataclass(frozen=True)
class Table:
    """The samples of one task or group: arm -> (task, doc_id) -> sample.

    Attributes:
        stratified: whether its tasks are strata.
    """

    name: str
    arms: Mapping[Arm, Mapping[Key, Sample]]
    stratified: bool = False

    def strata(self, samples: Sequence[Sample]) -> list[str] | None:
        """Returns one stratum name a sample, or None where the questions are of one stratum."""
        return [sample.task for sample in samples] if self.stratified else None


def facts_of(record: RunRecord, groups: Groups | None = None) -> Facts:
    """Returns what a record says of its tasks; `groups` where the record keeps them elsewhere."""
    return Facts(
        record.groups if groups is None else groups,
        record.majority,
        baselines=True,
        strata=record.strata,
        margin=float(record.config.get("margin", MARGIN_POINTS)) / 100,
    )


def sort_place(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Sort key: known names in their usual order, unknown ones behind them by name."""
    return (order.index(name) if name in order else len(order), name)


def arm_order(arm: Arm) -> tuple[tuple[int, str], tuple[int, str]]:
    """Sort key of an arm: by channel, the matched message before its controls."""
    return (channel_order(arm[0]), sort_place(arm[1], CONTROL_ORDER))


def channel_order(channel: str) -> tuple[int, str]:
    """Sort key of a channel with its options: by the place of its entry, channels that are not here last."""
    entry = entry_of(channel)
    return (entry.order if entry else sys.maxsize, channel)


def entry_of(channel: str) -> ChannelEntry | None:
    """Returns the entry of a channel with its options; None where it is not registered here."""
    name = channel_of(channel)
    return CHANNELS.get(name) if name in CHANNELS.names() else None


def fuser_in_use(control: str) -> FuserInUse:
    """Returns through which fuser a channel reads under a control; the channel's where it is not registered here."""
    return CONTROLS.get(control).fuser if control in CONTROLS.names() else "channel"


def yardstick(comparison: str, arms: Iterable[Arm]) -> Arm | None:
    """Returns the arm that others are compared with, such as T2T in ``to_t2t``; None where none of these is.

    Of several variants the channel without options, or the first.
    """
    plain = (arm for arm in arms if not arm[1])
    known = [arm for arm in plain if (entry := entry_of(arm[0])) is not None and entry.yardstick == comparison]
    return min(known, key=arm_order, default=None)


def members_by_name(groups: Groups | None, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Returns every name to be reported -> its tasks: groups first, then each task by itself.

    Args:
        groups: Group -> tasks; tasks without samples are passed over, so are groups without any.
        tasks: The tasks that have samples.
    """
    seen = sorted(set(tasks))
    found = {name: sorted(set(inside) & set(seen)) for name, inside in (groups or {}).items()}
    named = {name: inside for name, inside in found.items() if inside and name not in seen}
    return {**named, **{task: [task] for task in seen}}


def top_level(groups: Groups | None, tasks: Iterable[str]) -> list[str]:
    """Returns the names that no larger group holds: what a headline shows and a family of tests covers.

    A task that was asked for beside its group, a group of itself alone, is among them.
    """
    sets = {name: set(inside) for name, inside in members_by_name(groups, tasks).items()}
    asked = _asked_alone(groups)
    return [n for n, inside in sets.items() if n in asked or not any(inside < other for other in sets.values())]


def _asked_alone(groups: Groups | None) -> set[str]:
    return {name for name, inside in (groups or {}).items() if list(inside) == [name]}


def headline(rows: Sequence[ResultRow], groups: Groups | None) -> list[ResultRow]:
    """Keeps the rows of names that no larger group holds."""
    alone = {row.task for row in rows} - (set(groups or {}) - _asked_alone(groups))
    shown = set(top_level(groups, alone))
    return [row for row in rows if row.task in shown]


def tables(samples: Iterable[Sample], facts: Facts = NO_FACTS) -> list[Table]:
    """Sorts samples into one table a group and one a task, arms in their usual order."""
    by_task: dict[str, dict[Arm, dict[Key, Sample]]] = defaultdict(lambda: defaultdict(dict))
    for sample in samples:
        by_task[sample.task][sample.arm][(sample.task, sample.doc_id)] = sample
    parts: dict[str, Mapping[Arm, Mapping[Key, Sample]]] = dict(by_task)
    for whole in whole_tasks(facts.groups, sorted(by_task)) if facts.baselines else ():
        present = {task: by_task[task] for task in whole if task in by_task}
        parts.update(with_baselines(present, facts.majority))
    return [
        Table(name, _joined([parts[task] for task in inside]), name in facts.strata)
        for name, inside in members_by_name(facts.groups, parts).items()
    ]


def _joined(parts: Sequence[Mapping[Arm, Mapping[Key, Sample]]]) -> dict[Arm, dict[Key, Sample]]:
    arms = sorted({arm for part in parts for arm in part}, key=arm_order)
    return {arm: {key: s for part in parts for key, s in part.get(arm, {}).items()} for arm in arms}


def cluster_names(samples: Sequence[Sample]) -> list[str] | None:
    """Returns one cluster name a sample, or None where the questions stand alone.

    Questions of one subject hang together; without subjects the tasks of a group are its clusters. A question that
    several subjects ask belongs to one of them.
    """
    names = [sample.cluster or f"{sample.task}/{sample.subject}" for sample in samples]
    return names if len(set(names)) > 1 else None
