"""Configurations from YAML and flags, and back; validation errors in words.

Only plain YAML is read (no tags, anchors or repeated keys, a bounded size), so a file cannot run code, grow without
bound or mean two things. Every refusal is one sentence: the key, what was seen, what is allowed.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.config.flags import keys_of
from harness.config.run_config import RunConfig
from harness.config.validation import refuse_retired
from harness.errors import UserError, suggest

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list of texts",
    "list_type": "a list of texts",
    "dict_type": "a mapping of settings",
    "string_too_short": "text that is not empty",
}

_BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}


def error_sentence(error: ValidationError) -> str:
    """Words the first error of several."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"][:2]) or "the configuration"
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}.{suggest(name, RunConfig.model_fields)} Keys are named like the flags."
    return f"{name} is {_seen(first['input'])}, but has to be {_allowed(first)}."


def _seen(value: object) -> str:
    return reprlib.repr(value)[:80]


def _allowed(first: Any) -> str:
    kind, context = first["type"], first.get("ctx", {})
    if first["loc"][0] == "gen_kwargs" and len(first["loc"]) > 1:
        return "text, a number, true, false or a list of texts"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{words} {context[bound]}"
    if kind == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')}"
    return _TYPES.get(kind, str(first["msg"]).removeprefix("Input should be "))


MAX_BYTES = 64 * 1024

MAX_DEPTH = 8

SINGULAR = keys_of(RunConfig)


def from_yaml(path: Path) -> RunConfig:
    """Reads a configuration file.

    Raises:
        UserError: if it cannot be read or says something that is not allowed.
    """
    return build(read_yaml(path), str(path))


def to_yaml(config: RunConfig) -> str:
    """Returns every field as flat YAML that `from_yaml` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the values of a file under the names of `RunConfig`, unchecked, for flags to be laid over.

    Raises:
        UserError: if it cannot be read or is no flat, plain YAML.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read the configuration {path}: {error.strerror}; give a YAML file.") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES} bytes; a configuration is a short YAML file.")
    return parse(content, str(path))


def parse(content: bytes, where: str) -> dict[str, Any]:
    """Parses YAML; see `read_yaml`."""
    try:
        text = content.decode()
        _check_plain(text, where)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{where}{_line(error.problem_mark)} is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())[:200]}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{where} holds a {type(data).__name__}; give `name: value` lines.")
    return named(data, where)


def build(values: Mapping[str, Any], where: str = "command line") -> RunConfig:
    """Checks values and returns the configuration; `where` says in an error where they came from.

    Raises:
        UserError: naming the key, what was seen and what is allowed.
    """
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {error_sentence(error)}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _line(mark: Any) -> str:
    return f" line {mark.line + 1}" if mark is not None else ""


def _check_plain(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise UserError(f"{where}{_line(event.start_mark)} uses a YAML tag or anchor; write plain values.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f"{where}{_line(event.start_mark)} is nested too deeply; write plain values.")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        keys = [str(key.value) for key, _ in root.value]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise UserError(f"{where} gives {repeated[:40]!r} twice; keep one of the two lines.")


def named(data: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Returns values under the names of `RunConfig`, unchecked.

    Raises:
        UserError: a name is unknown or retired, or given in two spellings.
    """
    values: dict[str, Any] = {}
    try:
        refuse_retired(str(key) for key in data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for key, value in data.items():
        name = SINGULAR.get(key, key)
        if name not in RunConfig.model_fields:
            near = suggest(str(key), RunConfig.model_fields)
            raise UserError(f"{where}: unknown key {str(key)[:40]!r}.{near} Keys are named like the flags.")
        if name in values:
            raise UserError(f"{where} gives both {key!r} and its other spelling; keep one of them.")
        values[name] = value
    return values
