"""A validation error as one sentence: the key, what was seen, what is allowed."""

from __future__ import annotations

import reprlib
from typing import Any

from pydantic import ValidationError

from harness.config.model import RunConfig
from harness.errors import suggest

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


def sentence(error: ValidationError) -> str:
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
