"""The rows of a board: each run of the same thing once, and the published figures.

Rows of several records are one if what answered, the weights behind it and what it was asked are the same. Guarantees
that weights which were run twice, beside whatever other arms, are on a board once: as the newest run that was timed, or
else the newest one. The comparisons of a task in all records are one family for Holm, each counted once, so a verdict
does not depend on the arms that happened to run beside.

Published figures are carried over unchanged and never mixed with what was measured here. They are those of the board's
own folder, so that a board elsewhere shows what was run or imported there and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness import stats
from harness.leaderboard.record_format import Entry
from harness.records.files import explaining
from harness.records.schema import RunRecord, open_pins
from harness.results import Effect, facts_of, frame
from harness.results.comparisons import Measured, adjust_family, compare_unadjusted
from harness.results.formatting import arm_text
from harness.results.frame import REPORTED, typed_frame
from harness.results.grouping import Arm, entry_of, fuser_in_use

PUBLISHED = Path("records") / "published" / "figures.json"

# Says which arms took part, or names what the weights' digests pin; documents and prompts are compared by task.
_COMPANY = {
    "channels", "controls", "tasks", "sharers", "fusers", "self_fuser", "tuned", "weights", "fuser_weights", "dtypes",
    "templates", "donors", "documents", "prompts", "task_versions",
}  # fmt: skip

_BY_TASK = ("documents", "prompts", "task_versions")


def arm_identity(run: RunRecord, tasks: Iterable[str], arm: Arm) -> str:
    """Returns what decides the answers of an arm to some tasks; equal for runs that could only repeat each other."""
    fields = run.identity_fields
    asked = {name: _of_tasks(fields.get(name), tasks) for name in _BY_TASK}
    settings = {name: value for name, value in fields.items() if name not in _COMPANY}
    lent = fields.get("donors") if arm[1] else None
    return json.dumps([arm, settings, asked, lent, _weights(run, arm)], sort_keys=True, default=str)


def _of_tasks(values: Any, tasks: Iterable[str]) -> dict[str, Any]:
    return {task: values.get(task) for task in tasks} if isinstance(values, Mapping) else {}


def _weights(run: RunRecord, arm: Arm) -> list[tuple[str, ...]]:
    """Role, name and digest of every model and fuser that an arm answers with; of the pair always all models."""
    entry = entry_of(arm[0])
    roles = {"receiver", "sharer"} | ({"tuned"} if entry is None or "tuned" in entry.needs else set())
    models = [
        (model.role, model.reference, model.fingerprint, model.dtype) for model in run.models if model.role in roles
    ]
    fuses = entry is None or "fuser" in entry.needs
    read = fuser_in_use(arm[1])
    wanted = {"channel": "sharer"}.get(read, read)
    fusers = [
        (wanted, str(fuser.get("fingerprint", ""))) for fuser in run.fusers if fuser.get("role", "sharer") == wanted
    ]
    return [*models, *(fusers if fuses else [])]


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
        for one in compare_unadjusted(entry.samples, facts_of(entry.record.run, entry.record.groups)):
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
        judged |= dict(zip(keys, (effect for effect, _ in adjust_family([shown[key] for key in keys])), strict=True))
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


@cache
def _titles() -> Mapping[str, str]:
    content: Mapping[str, str] = json.loads((files(__package__) / "titles.json").read_text(encoding="utf-8"))
    return content


def benchmark_title(task: str) -> str:
    """Returns a benchmark's name in words, or the task's own name."""
    return _titles().get(task, task)


def published_frame(folder: Path) -> pd.DataFrame:
    """Returns a board's published figures as rows of `harness.results.frame` that say they were not run here.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / PUBLISHED
    if not path.is_file():
        return typed_frame(())
    with explaining(path):
        data = json.loads(path.read_text(encoding="utf-8"))
    return typed_frame(_row(row, data) for row in data["rows"])


def _row(row: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    source = data["sources"][row["source"]]
    n = data["questions"][row["task"]] if row["source"] == "paper" else None
    accuracy, control = row["accuracy_percent"] / 100, row.get("control", "")
    interval = stats.wilson(round(accuracy * n), n) if n is not None else None
    return {
        "task": row["task"],
        "headline": True,
        "receiver": data["receiver"],
        "sharers": row["sharer"],
        "channel": row["channel"],
        "control": control,
        "arm": arm_text(row["channel"], control),
        "model_pass": True,
        "accuracy": accuracy,
        "accuracy_low": interval.low if interval else None,
        "accuracy_high": interval.high if interval else None,
        "n": n,
        "e2e_s_mean": row.get("e2e_s_mean"),
        "kind": REPORTED,
        "source": source["title"],
        "hardware": source["hardware"],
    }
