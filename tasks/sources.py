"""Rows of a dataset split, from the hub or from local copies of it.

Guarantees that only the one split that is asked for is read, at its pinned revision, and that
whatever is missing or broken is named. With `HARNESS_DATASETS_DIR` set, rows come from
`DIR/<hub id>/<config>/<split>.jsonl` and the network is not touched; the revision of such copies is
the caller's affair.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError, suggest
from tasks.benchmarks import Source

DATASETS_DIR_VARIABLE = "HARNESS_DATASETS_DIR"

Row = Mapping[str, Any]


def read_rows(source: Source, config: str, split: str) -> list[Row]:
    """Reads one split.

    Raises:
        UserError: if the dataset, the configuration or the split is not there, or a line is broken.
    """
    local = os.environ.get(DATASETS_DIR_VARIABLE, "")
    rows = _from_folder(Path(local), source, config, split) if local else _from_hub(source, config, split)
    if not rows:
        raise UserError(f"Split {split!r} of {source.hub_id} ({config}) has no rows.")
    return rows


def read_jsonl(path: Path) -> list[Row]:
    """Reads a file of one JSON object a line.

    Raises:
        UserError: naming file and line, if a line is no JSON object or the file is no UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
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


def _from_folder(root: Path, source: Source, config: str, split: str) -> list[Row]:
    if not root.is_dir():
        raise UserError(f"{DATASETS_DIR_VARIABLE} is {str(root)!r}, which is not a folder.")
    folder = root
    for part in (*source.hub_id.split("/"), config):
        folder = _inside(folder, part)
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise _missing(split, "split", folder, (found.stem for found in folder.glob("*.jsonl")))
    return read_jsonl(path)


def _inside(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise _missing(name, "folder", folder, (found.name for found in folder.iterdir() if found.is_dir()))
    return folder / name


def _missing(name: str, what: str, folder: Path, present: Iterable[str]) -> UserError:
    names = sorted(present)
    there = f"there are {', '.join(names)}" if names else "there are none"
    return UserError(f"No {what} {name!r} in {folder}; {there}.{suggest(name, names)}")


def _from_hub(source: Source, config: str, split: str) -> list[Row]:
    import datasets

    try:
        loaded = datasets.load_dataset(source.hub_id, config, revision=source.revision, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"Split {split!r} of {source.hub_id} ({config}) at revision {source.revision} could not be loaded: "
            f"{reason}. Check the network, or set {DATASETS_DIR_VARIABLE} to a folder of local copies."
        ) from error
    return list(loaded)
