"""Records of an older schema load for ever; those of a newer one are refused.

A change of shape raises `SCHEMA_VERSION` and adds one function to
`harness.records.migrations`; a kind of record that did not
change needs none. Nothing on disk is rewritten: the migration happens on every read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import UserError, suggest
from harness.records import schema
from harness.records.migrations import STEPS, under_spec

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
