"""Gains by subject: the paired difference of each channel to the receiver, where a subject has enough questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.records.schema import Sample
from harness.results.comparisons import has_message
from harness.results.grouping import RECEIVER, Key, Table, channel_order

FEWEST_QUESTIONS, MOST_SUBJECTS = 5, 80


@dataclass(frozen=True)
class SubjectGains:
    """What subjects show.

    Attributes:
        channels: channel with a message -> its difference to the receiver by subject, the largest first.
        left_out: subjects of fewer than `FEWEST_QUESTIONS` questions.
    """

    channels: Mapping[str, Sequence[Mapping[str, Any]]]
    left_out: int

    @property
    def left_out_text(self) -> str:
        """Says how many subjects are not shown; empty where all are."""
        if not self.left_out:
            return ""
        had = f"{self.left_out} subjects have" if self.left_out > 1 else "1 subject has"
        return f"{had} fewer than {FEWEST_QUESTIONS} questions: too few to show a gain."


def subject_gains(table: Table) -> SubjectGains:
    """Computes gains by subject; none without subjects.

    Where subjects are too many to be read (one a fact, say) or too small, categories stand in, then the tasks of a
    group.
    """
    base = table.arms.get(RECEIVER, {})
    names, left_out = _naming(list(base.values()))
    channels = {
        channel: sorted(_gains(arm, base, names), key=lambda gain: -gain["difference"])
        for (channel, control), arm in table.arms.items()
        if not control and has_message(channel)
    }
    shown = {name: channels[name] for name in sorted(channels, key=channel_order) if channels[name]}
    return SubjectGains(shown, left_out)


def _naming(samples: Sequence[Sample]) -> tuple[dict[Key, str], int]:
    """Names of questions in subjects that can be shown, and how many subjects cannot for having few questions."""
    few = 0
    for attribute in ("subject", "category", "task"):
        names = {(sample.task, sample.doc_id): str(getattr(sample, attribute)) for sample in samples}
        sizes = Counter(names.values())
        large = {name for name, size in sizes.items() if size >= FEWEST_QUESTIONS}
        if "" in sizes or len(sizes) < 2:
            continue
        if large and len(sizes) <= MOST_SUBJECTS:
            return {key: name for key, name in names.items() if name in large}, len(sizes) - len(large)
        few = few or len(sizes) - len(large)
    return {}, few


def _gains(arm: Mapping[Key, Sample], base: Mapping[Key, Sample], names: Mapping[Key, str]) -> list[dict[str, Any]]:
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for key, sample in arm.items():
        if key in names and sample.done and base[key].done:
            pairs.setdefault(names[key], []).append((bool(sample.correct), bool(base[key].correct)))
    return [{"subject": name, **_gain(both)} for name, both in sorted(pairs.items())]


def _gain(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    found = stats.paired([ours for ours, _ in pairs], [theirs for _, theirs in pairs], resamples=1)
    return {"n": found.n, "difference": found.difference, "low": found.interval.low, "high": found.interval.high}
