"""The flags of `run`: one for every field of the configuration, under lm-eval's names where it has one.

Guarantees that a YAML file says the same as flags would, that flags win over it, and that what nobody gives is the
embedded pair on its own task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.channels.registry import CHANNELS
from harness.channels.spec import entries_of
from harness.config import RunConfig, build, read_yaml
from harness.config.rules import refuse_retired
from harness.config.served import with_served_defaults
from harness.errors import UserError
from harness.paths import PAIR_NAME

_REPEATED = {"sharers": "sharer", "fusers": "fuser"}
_NUMBERS = {
    "limit", "max_length", "max_new_tokens", "calibration_samples", "seed", "batch_size",
    "max_batch_tokens", "latency_samples", "latency_warm_up", "latency_equal_tokens",
}  # fmt: skip
_FRACTIONS = {"max_error_rate", "margin"}
_SWITCHES = {"trust_remote_code", "enable_thinking", "tensor_parallel", "resume"}
_NEGATED = {"chat": "no-chat-template", "progress": "no-progress"}
_NEGATED_HELP = {
    "chat": "Send prompts without the chat template; `chat: false` in a YAML file.",
    "progress": "Show no progress on the terminal; `progress: false` in a YAML file.",
}
_ALWAYS_ON = {"log_samples"}
_DEFAULT_CONTROLS = "mismatched,mean,closed"


def configuration(parser: argparse.ArgumentParser, given: Sequence[str]) -> RunConfig:
    """Reads flags and an optional YAML file.

    Raises:
        UserError: something is not allowed.
    """
    _declare(parser)
    refuse_retired(word.partition("=")[0].lstrip("-").replace("-", "_") for word in given if word.startswith("--"))
    flags = {k: v for k, v in vars(parser.parse_args(given)).items() if v is not None}
    suite = flags.pop("suite", None)
    flags.pop("plugin", None)
    values = {**(read_yaml(suite) if suite else {}), **flags}
    for name in ("channels", "controls", "tasks"):
        if isinstance(values.get(name), str):
            values[name] = [part.strip() for part in values[name].split(",") if part.strip()]
    if isinstance(values.get("gen_kwargs"), str):
        values["gen_kwargs"] = _pairs(values["gen_kwargs"])
    return build(_with_embedded(values), str(suite) if suite else "command line")


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", type=Path, help="YAML file with the names of these flags; flags win")
    for name, field in RunConfig.model_fields.items():
        flag = _NEGATED.get(name) or _REPEATED.get(name, name)
        flags = list(dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}"]))
        text = _NEGATED_HELP.get(name, field.description or "").replace("%", "%%")
        parser.add_argument(*flags, dest=name, default=None, help=text, **_kind(name))


def _kind(name: str) -> dict[str, Any]:
    if name in _NEGATED:
        return {"action": "store_false"}
    if name in _SWITCHES or name in _ALWAYS_ON:
        return {"action": "store_true"}
    if name in _NUMBERS:
        return {"type": _number, "metavar": "N"}
    if name in _FRACTIONS:
        return {"type": _fraction, "metavar": "X"}
    if name in _REPEATED:
        return {"action": "append", "metavar": "REF"}
    return {"metavar": name.upper()}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _pairs(text: str) -> dict[str, Any]:
    import yaml

    pairs = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"gen_kwargs has {part!r}; write name=value, separated by commas.")
        try:
            pairs[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"gen_kwargs: the value of {key!r} cannot be read: {value!r}.") from None
    return pairs


def _with_embedded(values: dict[str, Any]) -> dict[str, Any]:
    """Fills in the embedded pair where no model is named, and its task where no task is."""
    filled = with_served_defaults(values)
    if not any(filled.get(n) for n in ("receiver", "sharers")):
        filled |= {"receiver": str(PAIR_NAME / "receiver"), "sharers": [str(PAIR_NAME / "sharer")]}
        if not filled.get("fusers") and _needs_fuser(filled):
            filled["fusers"] = [str(PAIR_NAME / "fuser")]
        if "tasks" not in filled:
            filled["tasks"] = ["factworld", "factworld_receiver_knows", "factworld_sharer_knows"]
        if "channels" not in filled:
            filled.setdefault("controls", _DEFAULT_CONTROLS.split(","))
    if not filled.get("tasks"):
        raise UserError("No task is given; name one or more with --tasks (see run_eval.py ls).")
    return filled


def _needs_fuser(values: dict[str, Any]) -> bool:
    named = values.get("channels", [entry.name for entry in CHANNELS.loaded()])
    return any("fuser" in entry.needs for entry in entries_of(named))
