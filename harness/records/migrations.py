"""Loads records of older schema versions; those of a newer one are refused.

A change of shape raises `SCHEMA_VERSION` and adds one function here for each kind of record that changed. Records of an
older schema load for ever, and nothing on disk is rewritten: the migration happens on every read.

From 1 to 2: the control `noise`, drawn from the mean and deviation of the question's own message, became `noise_own`,
as `noise` now draws from another question's. A run names the groups whose tasks are strata.

From 2 to 3: the settings of T2T and C2C moved from the whole run into the channel's name, such as
``t2t:max_new_tokens=64``. A line of a journal does not hold them, so it is read beside its run, see `under_spec`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import UserError, suggest
from harness.records import schema

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


_T2T_TOKENS = 256

_MOVED = ("with_options", "may_answer", "t2t_tokens", "fusion_mode", "alignment")


def under_spec(data: dict[str, Any], channels: Sequence[str]) -> dict[str, Any]:
    """A line of a journal under the name that its run gives the channel now; before, no channel was there twice."""
    name = data.get("channel")
    found = [spec for spec in channels if spec.partition(":")[0] == name]
    return {**data, "channel": found[0]} if name not in channels and len(found) == 1 else data


def _specs(settings: Any) -> dict[str, str]:
    """Channel -> its name with the options that the run gave it; those that have other options than the usual ones."""
    if not isinstance(settings, Mapping):
        return {}
    sharers = settings.get("sharers")
    tokens, alignment = settings.get("t2t_tokens", _T2T_TOKENS), settings.get("alignment", "auto")
    text = [f"max_new_tokens={tokens}"] if tokens != _T2T_TOKENS else []
    text += [name for name in ("may_answer", "with_options") if settings.get(name)]
    fused = [f"alignment={alignment}"] if alignment != "auto" else []
    if settings.get("fusion_mode") == "parallel" and isinstance(sharers, list) and len(sharers) > 1:
        fused.append("mode=parallel")
    return {name: ":".join([name, *options]) for name, options in (("t2t", text), ("c2c", fused)) if options}


def _named(data: Any, specs: Mapping[str, str]) -> Any:
    named = isinstance(data, dict) and data.get("channel") in specs
    return {**data, "channel": specs[data["channel"]]} if named else data


def _parts_named(data: dict[str, Any], specs: Mapping[str, str], *names: str) -> dict[str, Any]:
    listed = {name: data[name] for name in names if isinstance(data.get(name), list)}
    return {**data, **{name: [_named(part, specs) for part in parts] for name, parts in listed.items()}}


def _settings(settings: Any, specs: Mapping[str, str]) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    kept = {name: value for name, value in settings.items() if name not in _MOVED}
    if isinstance(kept.get("channels"), list):
        kept["channels"] = [specs.get(name, name) if isinstance(name, str) else name for name in kept["channels"]]
    return kept


def _run_of_specs(data: dict[str, Any]) -> dict[str, Any]:
    specs = _specs(data.get("identity_fields")) or _specs(data.get("config"))
    moved = _parts_named(data, specs, "results")
    moved |= {name: _settings(data[name], specs) for name in ("config", "identity_fields") if name in data}
    if moved.get("identity_fields") != data.get("identity_fields"):
        moved["identity"] = _digest(moved["identity_fields"])
    for name in ("counters", "throughput"):
        if isinstance(data.get(name), Mapping):
            moved[name] = {_arm_named(arm, specs): value for arm, value in data[name].items()}
    return moved


def _arm_named(arm: str, specs: Mapping[str, str]) -> str:
    channel, slash, control = arm.partition("/")
    return f"{specs.get(channel, channel)}{slash}{control}"


def _board_of_specs(data: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(data.get("run"), dict):
        return data
    specs = _specs(data["run"].get("identity_fields"))
    return {**_parts_named(data, specs, "results", "answers", "timings"), "run": _run_of_specs(data["run"])}


STEPS: dict[tuple[str, int], Step] = {
    ("Sample", 1): _with_control,
    ("Timing", 1): _with_control,
    ("RunRecord", 1): _run,
    ("BoardRecord", 1): _board,
    ("RunRecord", 2): _run_of_specs,
    ("BoardRecord", 2): _board_of_specs,
}

"""(name of the record, version it is in) -> the same record one version later."""


R = TypeVar("R", bound=schema.Record)


MIGRATIONS = dict(STEPS)

# From this version on a line of a journal names its channel with its options.
_SPECS_SINCE = 3


def upgrade(data: dict[str, Any], kind: str, where: str, channels: Sequence[str] = ()) -> dict[str, Any]:
    """Returns `data` in today's shape; `channels` are those of the run that it is a line of.

    Raises:
        UserError: if its version is no number or newer than this harness.
    """
    version = data.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise UserError(f"{where}: schema_version is {str(version)[:40]!r}; it has to be a whole number from 1.")
    if version > schema.SCHEMA_VERSION:
        raise UserError(
            f"{where}: written in schema {version}, but this harness reads up to {schema.SCHEMA_VERSION}; "
            "update the harness."
        )
    for step in range(version, schema.SCHEMA_VERSION):
        data = MIGRATIONS.get((kind, step), dict)(data)
    if version < _SPECS_SINCE:
        data = under_spec(data, channels)
    return {**data, "schema_version": schema.SCHEMA_VERSION}


def load(data: object, model: type[R], where: str, channels: Sequence[str] = ()) -> R:
    """Checks one decoded record.

    Args:
        data: as it was read.
        model: what it should be.
        where: file and line, for the error.
        channels: of the run, where it is a line of a run's journal.

    Raises:
        UserError: naming the first field that is wrong.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected one JSON object, a {model.__name__}, but found a {type(data).__name__}.")
    try:
        return model.model_validate(upgrade(data, model.__name__, where, channels))
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error, model)}") from error


def _first(error: ValidationError, model: type[schema.Record]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    near = suggest(field, model.model_fields) if first["type"] == "extra_forbidden" else ""
    return f"field {field[:80]!r} of this {model.__name__} is wrong: {first['msg']}.{near}"
