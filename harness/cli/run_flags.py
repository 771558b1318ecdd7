"""The flags of `run`: one for every field of the configuration, under lm-eval's names where it has one.

Guarantees that a YAML file means the same as flags, that flags win over it, and that what is not given is taken from
the embedded pair on its own task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.channels.registry import CHANNELS
from harness.channels.spec import entries_of
from harness.config import RunConfig, build, read_yaml
from harness.config.flags import add_flags, given_values
from harness.config.validation import refuse_retired, with_served_defaults
from harness.errors import UserError
from harness.paths import FACTWORLD_PAIR_NAME, PAIR_NAME

_DEFAULT_TASKS = ("relay_one", "relay_crowd")

_DEFAULT_SIZE = {"latency_samples": 8}  # with all questions, less than four times the time of starting up


def configuration(parser: argparse.ArgumentParser, given: Sequence[str]) -> RunConfig:
    """Reads flags and an optional YAML file.

    Raises:
        UserError: something is not allowed.
    """
    parser.add_argument("suite", nargs="?", type=Path, help="YAML file with the names of these flags; flags win")
    add_flags(parser, RunConfig)
    refuse_retired(word.partition("=")[0].lstrip("-").replace("-", "_") for word in given if word.startswith("--"))
    parsed = vars(parser.parse_args(given))
    suite = parsed["suite"]
    values = {**(read_yaml(suite) if suite else {}), **given_values(RunConfig, parsed)}
    for name in ("channels", "controls", "tasks"):
        if isinstance(values.get(name), str):
            values[name] = [part.strip() for part in values[name].split(",") if part.strip()]
    return build(_with_embedded(values), str(suite) if suite else "command line")


def _with_embedded(values: dict[str, Any]) -> dict[str, Any]:
    """Fills in the embedded pair where no model is named, and its task where no task is."""
    filled = with_served_defaults(values)
    if not any(filled.get(n) for n in ("receiver", "sharers")):
        pair = _pair_of(filled.get("tasks"))
        filled |= {"receiver": str(pair / "receiver"), "sharers": [str(pair / "sharer")]}
        if not filled.get("fusers") and _needs_fuser(filled):
            filled["fusers"] = [str(pair / "fuser")]
        if "tasks" not in filled:
            filled = {**_DEFAULT_SIZE, **filled, "tasks": list(_DEFAULT_TASKS)}
    if not filled.get("tasks"):
        raise UserError("No task is given; name one or more with --tasks (see run_eval.py ls).")
    return filled


def _pair_of(tasks: Any) -> Path:
    """The embedded pair, or factworld's where nothing but factworld is asked."""
    asked = tasks if isinstance(tasks, list | tuple) else []
    only_factworld = bool(asked) and all(str(name).startswith("factworld") for name in asked)
    return FACTWORLD_PAIR_NAME if only_factworld else PAIR_NAME


def _needs_fuser(values: dict[str, Any]) -> bool:
    named = values.get("channels", [entry.name for entry in CHANNELS.loaded()])
    return any("fuser" in entry.needs for entry in entries_of(named))
