"""What a run is about where it is not said: the embedded pair on its own task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.channels.registry import CHANNELS
from harness.channels.spec import entries_of
from harness.config.validation import with_served_defaults
from harness.errors import UserError
from harness.paths import PAIR_NAME, program

_TASKS = ("relay_one", "relay_crowd")

_SIZE = {"latency_samples": 8}  # with all questions, less than four times the time of starting up


def with_embedded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the embedded pair where no model is named, and its task where no task is.

    Args:
        values: by the names of `RunConfig`'s fields, unchecked.

    Raises:
        UserError: models are named without a task, or a task that the embedded pair cannot answer without models.
    """
    filled = with_served_defaults(_split(values))
    if not any(filled.get(n) for n in ("receiver", "sharers")):
        _refuse_factworld(filled.get("tasks"))
        filled |= {"receiver": str(PAIR_NAME / "receiver"), "sharers": [str(PAIR_NAME / "sharer")]}
        if not filled.get("fusers") and _needs_fuser(filled):
            filled["fusers"] = [str(PAIR_NAME / "fuser")]
        if "tasks" not in filled:
            filled = {**_SIZE, **filled, "tasks": list(_TASKS)}
    if not filled.get("tasks"):
        raise UserError(f"No task is given; name one or more with --tasks ({program()} ls lists them).")
    return filled


def _split(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with lists in place of texts with commas."""
    texts = {name: values[name] for name in ("channels", "controls", "tasks") if isinstance(values.get(name), str)}
    listed = {name: [part.strip() for part in text.split(",") if part.strip()] for name, text in texts.items()}
    return {**values, **listed}


def _refuse_factworld(tasks: Any) -> None:
    asked = [str(name) for name in tasks] if isinstance(tasks, list | tuple) else []
    for name in asked:
        if name.startswith("factworld"):
            raise UserError(
                f"Task {name} asks in words that the embedded pair does not know, and no models are named; build a "
                "pair with train-demo --world factworld --output FOLDER and give --receiver FOLDER/receiver, "
                "--sharer FOLDER/sharer and --fuser FOLDER/fuser."
            )


def _needs_fuser(values: dict[str, Any]) -> bool:
    named = values.get("channels", [entry.name for entry in CHANNELS.loaded()])
    return any("fuser" in entry.needs for entry in entries_of(named))
