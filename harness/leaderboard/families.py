"""The rows of several records on one board: each thing that answered once, its comparisons one family a task.

The comparisons of a task in all records together are one family for Holm, each counted once however often the same
weights were run, so that a verdict does not depend on the arms that happened to run beside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from harness.leaderboard.distinct import arm_identity
from harness.leaderboard.reading import Entry
from harness.pins import open_pins
from harness.results import Effect, facts_of, frame
from harness.results.effects import Measured, adjusted, measured
from harness.results.groups import Arm


class _Compared(NamedTuple):
    """What makes two comparisons one: task, kind and what answered on both sides."""

    task: str
    kind: str
    arm: str
    base: str


def board_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """Returns the headline rows of records, one of those that the same weights gave to the same questions.

    Beside the columns of `harness.results.frame`: `also`, further runs of the same weights.
    """
    rows = frame(entries, board_effects(entries))
    shown = rows[rows["headline"].astype(bool)]
    by_run = {entry.record.run.run_id: entry for entry in entries}
    places = zip(shown["run_id"], shown["task"], shown["channel"], shown["control"], strict=True)
    made = [_made_by(by_run[run], task, (channel, control)) for run, task, channel, control in places]
    sources = [_source(by_run[run], source) for run, source in zip(shown["run_id"], shown["source"], strict=True)]
    known = shown.assign(made_by=made, source=sources, timed=shown["e2e_s_p50"].notna())
    best = known.sort_values(["timed", "started_at", "run_id"], kind="stable").drop_duplicates("made_by", keep="last")
    runs = known.groupby("made_by")["run_id"].agg(list).to_dict() if len(known) else {}
    also = [
        " + ".join(sorted(set(runs[key]) - {run})) for key, run in zip(best["made_by"], best["run_id"], strict=True)
    ]
    distinct: pd.DataFrame = best.assign(also=also).drop(columns=["made_by", "timed"]).sort_index()
    return distinct


def board_effects(entries: Sequence[Entry]) -> list[list[Effect]]:
    """Returns each record's comparisons, adjusted over the comparisons of the task in all records."""
    shown: dict[_Compared, tuple[tuple[object, ...], Measured]] = {}
    own: list[dict[tuple[str, str, Arm], _Compared]] = []
    for entry in entries:
        keys = {}
        for one in measured(entry.samples, facts_of(entry.record.run, entry.record.groups)):
            effect = one[0]
            sides = (_made_by(entry, effect.task, arm) for arm in (effect.arm, effect.base))
            key, place = _Compared(effect.task, effect.kind, *sides), _preference(entry, effect.arm)
            keys[effect.task, effect.kind, effect.arm] = key
            if key not in shown or place > shown[key][0]:
                shown[key] = place, one
        own.append(keys)
    judged = _judged({key: one for key, (_, one) in shown.items()})
    return [[judged[key] for key in keys.values()] for keys in own]


def _judged(shown: Mapping[_Compared, Measured]) -> dict[_Compared, Effect]:
    families: dict[str, list[_Compared]] = {}
    for key in shown:
        families.setdefault(key.task, []).append(key)
    judged: dict[_Compared, Effect] = {}
    for keys in families.values():
        judged |= dict(zip(keys, (effect for effect, _ in adjusted([shown[key] for key in keys])), strict=True))
    return judged


def _made_by(entry: Entry, task: str, arm: Arm) -> str:
    tasks = sorted({*entry.record.groups.get(task, [task])} & entry.record.questions.keys())
    asked = [entry.record.questions[name].ids for name in tasks]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return f"{task} {arm_identity(entry.record.run, tasks, arm)} {digest}"


def _preference(entry: Entry, arm: Arm) -> tuple[object, ...]:
    timed = any((timing.channel, timing.control) == arm for timing in entry.timings)
    return (timed, entry.record.run.started_at, entry.record.run.run_id)


def _source(entry: Entry, source: str) -> str:
    pins = open_pins(entry.record.run)
    return source + (f", open pins: {', '.join(pins)}" if pins else "")
