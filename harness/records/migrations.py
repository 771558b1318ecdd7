"""Steps between schema versions: one function for each kind of record that changed.

From 1 to 2: the control `noise` drew from the mean and deviation of the question's own message, and is called
`noise_own` since `noise` draws from another question's. A run names the groups whose tasks are strata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

Step = Callable[[dict[str, Any]], dict[str, Any]]

_OLD, _NEW = "noise", "noise_own"
# Groups that had strata before runs said so.
_STRATIFIED = ("factworld", "factworld_letters")


def _with_control(data: dict[str, Any]) -> dict[str, Any]:
    """A sample, timing, row or column of answers under its control's present name."""
    return {**data, "control": _NEW} if data.get("control") == _OLD else data


def _run(data: dict[str, Any]) -> dict[str, Any]:
    moved = _with_controls(data)
    groups = data.get("groups")
    stratified = [name for name in _STRATIFIED if isinstance(groups, Mapping) and name in groups]
    return {**moved, "strata": stratified} if stratified else moved


def _with_controls(data: dict[str, Any]) -> dict[str, Any]:
    moved = dict(data)
    for name in ("config", "identity_fields"):
        if isinstance(data.get(name), Mapping):
            moved[name] = _with_names(data[name])
    if moved.get("identity_fields") != data.get("identity_fields"):
        moved["identity"] = _digest(moved["identity_fields"])
    if isinstance(data.get("counters"), Mapping):
        moved["counters"] = {_arm(name): counts for name, counts in data["counters"].items()}
    return {**moved, **_each(data, "results")}


def _with_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    controls = settings.get("controls")
    if not isinstance(controls, list) or _OLD not in controls:
        return dict(settings)
    return {**settings, "controls": [_NEW if name == _OLD else name for name in controls]}


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _arm(name: str) -> str:
    return f"{name.removesuffix(_OLD)}{_NEW}" if name.endswith(f"/{_OLD}") else name


def _each(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Lists of parts that name a control; what is no such list is left for the check to refuse."""
    listed = {name: data[name] for name in names if isinstance(data.get(name), list)}
    return {
        name: [_with_control(part) if isinstance(part, dict) else part for part in parts]
        for name, parts in listed.items()
    }


def _board(data: dict[str, Any]) -> dict[str, Any]:
    moved = {**data, **_each(data, "results", "answers", "timings")}
    if isinstance(data.get("run"), dict):
        # A board's record keeps its groups beside its run.
        moved["run"] = _run({"groups": data.get("groups"), **data["run"]})
    return moved


STEPS: dict[tuple[str, int], Step] = {
    ("Sample", 1): _with_control,
    ("Timing", 1): _with_control,
    ("RunRecord", 1): _run,
    ("BoardRecord", 1): _board,
}
"""(name of the record, version it is in) -> the same record one version later."""
