"""Reported results as rows of a board and as paired comparisons, by source, task and pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from harness import stats
from harness.leaderboard.reported.format import Figure, ReportedArm
from harness.leaderboard.reported.reading import Reported, samples_of
from harness.records.schema import Sample
from harness.results import Effect, summarise
from harness.results.comparisons import TO_RECEIVER, TO_T2T, adjust_family, measured_pair
from harness.results.formatting import arm_text
from harness.results.frame import REPORTED, REPORTED_ITEMS, comparison_fields, typed_frame
from harness.results.grouping import Arm, Table, arm_order, yardstick

Place = tuple[str, str, str, str]
_KINDS = (TO_RECEIVER, TO_T2T)  # comparisons that have columns of their own


@dataclass(frozen=True)
class _Answered:
    """An arm with its answers.

    Attributes:
        label: channel with its variant, and control: unique within a source, task and pair.
        samples: (task, question) -> answer.
    """

    entry: Reported
    arm: ReportedArm
    label: Arm
    samples: Mapping[tuple[str, str], Sample]


class ReportedBoard:
    """What a board shows of reported records.

    Attributes:
        frame: rows of `harness.results.frame`.
        effects: (task, receiver, sharers, source) -> every paired comparison of its arms, a family for Holm.
        entries: the same places -> their records.
    """

    def __init__(self, entries: Sequence[Reported] = ()) -> None:
        self.entries: dict[Place, list[Reported]] = {}
        for entry in entries:
            self.entries.setdefault(_place(entry), []).append(entry)
        answered = {place: _answered(own) for place, own in self.entries.items()}
        self.effects = {place: _effects(place[0], arms) for place, arms in answered.items()}
        self.frame: pd.DataFrame = typed_frame(
            row for place, own in self.entries.items() for row in _rows(own, answered[place], self.effects[place])
        )


def _place(entry: Reported) -> Place:
    source, task, receiver, sharers = entry.place
    return task, receiver, " + ".join(sharers), source


def _answered(entries: Sequence[Reported]) -> list[_Answered]:
    """The arms in their usual order, those of a channel by variant."""
    listed = [
        _Answered(entry, arm, _label(arm), {(one.task, one.doc_id): one for one in samples_of(entry.record, arm)})
        for entry in entries
        for arm in entry.record.arms
    ]
    return sorted(listed, key=lambda one: (arm_order((one.arm.channel, one.arm.control)), one.arm.variant))


def _label(arm: ReportedArm) -> Arm:
    return f"{arm.channel} {arm.variant}".rstrip(), arm.control


def _effects(task: str, arms: Sequence[_Answered]) -> list[Effect]:
    """Compares every two arms that answered questions in common, the later one minus the earlier."""
    table = Table(task, {one.label: one.samples for one in arms})
    kinds = {yardstick(kind.name, table.arms): kind for kind in _KINDS}
    found = [
        measured_pair(table, arm.label, base.label, kind=kinds.get(base.label)) for base, arm in combinations(arms, 2)
    ]
    return [effect for effect, _ in adjust_family([one for one in found if one[0].n])]


def _rows(
    entries: Sequence[Reported], arms: Sequence[_Answered], effects: Sequence[Effect]
) -> Iterator[dict[str, Any]]:
    for one in arms:
        own = [effect for effect in effects if effect.arm == one.label]
        yield {**_shared(one.entry, one.arm), **_item_fields(one), **_comparisons(own)}
    for entry in entries:
        for figure in entry.record.figures:
            yield {**_shared(entry, figure), **_figure_fields(figure)}


def _shared(entry: Reported, arm: ReportedArm | Figure) -> dict[str, Any]:
    task, receiver, sharers, source = _place(entry)
    return {
        "task": task,
        "headline": True,
        "receiver": receiver,
        "sharers": sharers,
        "channel": arm.channel,
        "control": arm.control,
        "arm": arm_text(arm.channel, arm.control),
        "variant": arm.variant,
        "model_pass": True,
        "invalid": arm.invalid,
        "source": source,
        "hardware": entry.record.hardware,
    }


def _item_fields(one: _Answered) -> dict[str, Any]:
    (row,) = summarise(one.samples.values())
    taken = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_strict", "n", "errors")
    fields = {name: getattr(row, name) for name in taken}
    if one.arm.predicted_strict:
        fields["parsers_disagree"] = row.parsers_disagree
    told = {"echoes": one.arm.echoes, "tokens_out": one.arm.tokens_out_mean}
    return {**fields, **told, **_seconds(one.arm), "kind": REPORTED_ITEMS}


def _seconds(arm: ReportedArm) -> dict[str, float]:
    seconds = [ms / 1e3 for ms in arm.latency_ms if ms is not None]
    if not seconds:
        return {}
    p50, p90 = np.percentile(np.asarray(seconds), (50, 90))
    return {"e2e_s_p50": float(p50), "e2e_s_p90": float(p90), "e2e_s_mean": fmean(seconds)}


def _comparisons(effects: Sequence[Effect]) -> dict[str, Any]:
    """Those to the receiver and to T2T, which have columns of their own."""
    names = {kind.name for kind in _KINDS}
    named = (comparison_fields(effect) for effect in effects if effect.kind in names)
    return {name: value for fields in named for name, value in fields.items()}


def _figure_fields(figure: Figure) -> dict[str, Any]:
    interval = stats.wilson(figure.right, figure.n)
    return {
        "accuracy": figure.right / figure.n,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "n": figure.n,
        "e2e_s_mean": figure.e2e_s_mean,
        "kind": REPORTED,
    }
