"""CSV and JSON files of others, each row with its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError, suggest
from harness.records.files import explaining


def text_of(path: Path) -> str:
    """Reads a file as UTF-8, with or without a byte order mark.

    Raises:
        UserError: if it cannot be read or is no UTF-8.
    """
    with explaining(path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def csv_header(text: str) -> list[str]:
    """Returns the names of a CSV file's columns."""
    return next(csv.reader(io.StringIO(text, newline="")), [])


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields place and cells of every row of a CSV file.

    Raises:
        UserError: if a column is named twice or a row has another number of cells than the header.
    """
    reader = csv.reader(io.StringIO(text_of(path), newline=""))
    header = next(reader, [])
    if len(set(header)) != len(header):
        raise UserError(f"{path} names a column twice: {', '.join(header)}.")
    try:
        for number, cells in enumerate(reader, 1):
            place = f"Row {number} of {path.name}"
            if len(cells) != len(header):
                raise UserError(f"{place} has {len(cells)} cells, but the header has {len(header)}.")
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV: {error}.") from error


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and object of every line of a JSON-lines file; blank lines are passed over.

    Raises:
        UserError: if a line is no JSON object.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            place = f"Line {number} of {path.name}"
            yield place, json_object(line, place)


def json_object(text: str, place: str) -> dict[str, Any]:
    """Parses one JSON object.

    Raises:
        UserError: if it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{place} is a JSON {type(value).__name__}; an object is needed.")
    return value


def refuse_unknown(names: Collection[str], allowed: Collection[str], where: str) -> None:
    """Refuses names that would be passed over.

    Raises:
        UserError: naming the first of them, with a near one.
    """
    for name in names:
        if name not in allowed:
            raise UserError(f"{where}: unknown column {name!r}; allowed: {', '.join(allowed)}.{suggest(name, allowed)}")
