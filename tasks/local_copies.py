"""Rows of a dataset split from a folder of local copies: JSON lines or parquet, named as on the hub.

Guarantees that a split is read from one form only and whole: two forms of it, or a missing shard, are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError, suggest

Row = Mapping[str, Any]

_SUFFIXES = (".jsonl", ".parquet")
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def read_split(root: Path, hub_id: str, config: str, split: str) -> list[Row]:
    """Reads `ROOT/<hub id>/<config>/<split>.jsonl`, `.parquet` or `<split>-00000-of-00002.parquet` and so on.

    Raises:
        UserError: if the folder or the split is not there, is there twice or incomplete, or cannot be read.
    """
    folder = root
    for part in (*hub_id.split("/"), config):
        folder = _inside(folder, part)
    files = _files(folder, split)
    return [row for path in files for row in (read_jsonl(path) if path.suffix == ".jsonl" else _read_parquet(path))]


def read_jsonl(path: Path) -> list[Row]:
    """Reads a file of one JSON object a line; a byte order mark and blank lines at the end are passed over.

    Raises:
        UserError: naming file and line, if a line is no JSON object or the file is no UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return [] if lines == [""] else [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"Line {number} of {path} is not valid JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UserError(f"Line {number} of {path} must be a JSON object, not {type(row).__name__}.")
    return row


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path, partitioning=None).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{path} cannot be read as parquet: {reason}.") from error
    return rows


def _files(folder: Path, split: str) -> list[Path]:
    whole = [path for suffix in _SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    shards = _shards(folder, split)
    if not whole and not shards:
        raise _missing(split, "split", folder, _splits(folder))
    forms = [*(path.name for path in whole), *(path.name for path in shards[:1])]
    if len(forms) > 1:
        raise UserError(f"Split {split!r} is in {folder} more than once, as {' and '.join(forms)}; keep one of them.")
    return whole or shards


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards in order.

    Raises:
        UserError: if one is missing or they are of several sets.
    """
    named = sorted(folder.glob("*.parquet"))
    matches = [(path, match) for path in named if (match := _SHARD.fullmatch(path.stem)) and match["split"] == split]
    counts = {int(match["count"]) for _, match in matches}
    numbers = [int(match["number"]) for _, match in matches]
    if matches and (len(counts) > 1 or numbers != list(range(max(counts)))):
        names = ", ".join(path.name for path, _ in matches)
        raise UserError(f"Split {split!r} in {folder} is not whole: there are {names}; copy every shard of one set.")
    return [path for path, _ in matches]


def _splits(folder: Path) -> list[str]:
    stems = (path.stem for path in folder.iterdir() if path.suffix in _SUFFIXES)
    return sorted({match["split"] if (match := _SHARD.fullmatch(stem)) else stem for stem in stems})


def _inside(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise _missing(name, "folder", folder, (found.name for found in folder.iterdir() if found.is_dir()))
    return folder / name


def _missing(name: str, what: str, folder: Path, present: Iterable[str]) -> UserError:
    names = sorted(present)
    there = f"there are {', '.join(names)}" if names else "there are none"
    return UserError(f"No {what} {name!r} in {folder}; {there}.{suggest(name, names)}")
