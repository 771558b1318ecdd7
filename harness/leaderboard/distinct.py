"""Which rows of several records are one: what answered, the weights behind it, and what it was asked.

Guarantees that weights which were run twice, in whatever company of other arms, stand on a board once. Of several runs
of one thing the newest one that was timed stands there, or the newest one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from harness.records.schema import RunRecord
from harness.results.groups import Arm, entry_of

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
    wanted = "self" if arm[1] == "self" else "sharer"
    fusers = [
        (wanted, str(fuser.get("fingerprint", ""))) for fuser in run.fusers if fuser.get("role", "sharer") == wanted
    ]
    return [*models, *(fusers if fuses and arm[1] != "closed" else [])]
