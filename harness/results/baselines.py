"""Rows without a model pass that stand beside every option task: chance, the majority label, the oracle.

All three are computed from the questions and answers of a run, so they cost nothing and no run lacks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.channels.registry import RECEIVER, SHARER
from harness.records.schema import MajorityLabel, ResultRow, Sample

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
    ours, theirs = arms.get((RECEIVER, "")), arms.get((SHARER, ""))
    if ours and theirs and ORACLE not in arms:
        added[ORACLE] = {key: _either(ours[key], theirs[key]) for key in ours if key in theirs}
    return added


def usual_label(keys: Iterable[str]) -> str:
    """The label that is right most often; of several the first by name."""
    counts = Counter(keys)
    return min(counts, key=lambda label: (-counts[label], label))


def chance_row(task: str, samples: Sequence[Sample]) -> ResultRow | None:
    """What guessing gives: the mean of one over the number of options, exactly; None where options are not known.

    Args:
        task: name of the task or group.
        samples: one arm's answers to all of its questions.
    """
    if not samples or not all(sample.labels for sample in samples):
        return None
    rate = sum(1 / len(sample.labels) for sample in samples) / len(samples)
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
