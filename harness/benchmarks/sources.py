"""Rows of a dataset split, from the hub at a pinned revision or from a folder of local copies.

Guarantees that only the requested split is read and that anything missing or broken is named. From the hub, the files
of one commit are fetched first and read from their folder, because the `datasets` library serves whatever revision it
has where the hub cannot be asked.

Local copies are JSON lines or parquet, named as on the hub. They are used where a folder is given or
`HARNESS_DATASETS_DIR` names one; the network is then not touched, and their revision is the caller's responsibility. A
split is read whole and from one form only: two forms of it, or a missing shard, are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks.definitions import Source
from harness.errors import UserError, suggest
from harness.models.hub import Snapshot, Wanted, snapshot

if TYPE_CHECKING:
    from datasets import Dataset

_CARD = "README.md"

_READERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}

_PLAIN = {"config_name", "data_files", "default"}

_SPLIT = re.compile(r"(\w+)(\[.*\])?")


def load_split(repo: str, revision: str | None, config: str | None, split: str) -> tuple[Dataset, str]:
    """Loads a split.

    Args:
        repo: the data set's name.
        revision: commit, branch or tag; None = `main`.
        config: its configuration; None = the only one or the default.
        split: its name, with a slice such as `train[:100]` if wanted.

    Returns:
        The rows, and the commit that they are from.

    Raises:
        UserError: it cannot be fetched at this revision, or has no such configuration or split.
        ValueError: the files cannot be read as a data set.
    """
    import datasets

    card = snapshot(repo, revision, Wanted((_CARD, ".gitattributes")), "dataset")
    patterns = _patterns(card, config, split)
    if patterns is None:
        whole = snapshot(repo, card.commit, Wanted(), "dataset")
        return datasets.load_dataset(str(whole.folder), config, split=split), card.commit
    folder = snapshot(repo, card.commit, Wanted(patterns), "dataset").folder
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    readers = {_READERS.get(path.suffix) for path in files}
    reader = readers.pop() if len(readers) == 1 else None
    if reader is None:
        names = ", ".join(path.name for path in files) or "none"
        raise UserError(f"{repo} at {card.commit} has no files for {split!r} in one readable format; found: {names}.")
    name = _base(split)
    return datasets.load_dataset(reader, data_files={name: list(map(str, files))}, split=split), card.commit


def _patterns(card: Snapshot, config: str | None, split: str) -> list[str] | None:
    """The files of a split as the data set's card says; None where the card does not say it plainly."""
    entry = _entry(card, config)
    if entry is None or set(entry) - _PLAIN or not _SPLIT.fullmatch(split):
        return None
    splits = _hub_splits(entry.get("data_files"))
    if splits is None:
        return None
    name = _base(split)
    if name not in splits:
        raise UserError(
            f"{card.repo} ({config}) has no split {name!r}; there are {', '.join(splits)}.{suggest(name, splits)}"
        )
    return splits[name]


def _entry(card: Snapshot, config: str | None) -> Mapping[str, Any] | None:
    from huggingface_hub import DatasetCard

    path = card.folder / _CARD
    entries = DatasetCard.load(path).data.to_dict().get("configs") if path.is_file() else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    named: dict[str, Mapping[str, Any]] = {str(entry.get("config_name")): entry for entry in entries}
    if config is None:
        chosen = [entry for entry in entries if entry.get("default")] or entries
        return chosen[0] if len(chosen) == 1 else None
    if config not in named:
        raise UserError(
            f"{card.repo} has no configuration {config!r}; there are {', '.join(named)}.{suggest(config, named)}"
        )
    return named[config]


def _hub_splits(data_files: object) -> dict[str, list[str]] | None:
    """Split -> patterns, of what a card may write: a pattern, a list of them, or a list of splits."""
    listed = [data_files] if isinstance(data_files, str) else data_files
    if not isinstance(listed, list) or not listed:
        return None
    if all(isinstance(one, str) for one in listed):
        return {"train": _listed(listed)}
    if not all(isinstance(one, Mapping) and {"split", "path"} == set(one) for one in listed):
        return None
    return {str(one["split"]): _listed(one["path"]) for one in listed}


def _listed(path: str | list[str]) -> list[str]:
    return [pattern.removeprefix("./") for pattern in ([path] if isinstance(path, str) else path)]


def _base(split: str) -> str:
    return split.partition("[")[0]


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
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not UTF-8 text (line {line}, byte {error.start}); save it as UTF-8.") from error
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


DATASETS_DIR_VARIABLE = "HARNESS_DATASETS_DIR"


def folder_in_environment() -> str | None:
    """The folder of local copies that the environment names; None where it names none."""
    return os.environ.get(DATASETS_DIR_VARIABLE) or None


def read_rows(source: Source, config: str, split: str, datasets_dir: str | None = None) -> list[Row]:
    """Reads one split.

    Args:
        source: hub id and revision.
        config: configuration of the data set.
        split: name of the split.
        datasets_dir: folder of local copies; empty = the hub; None = what the environment says.

    Raises:
        UserError: if the dataset, the configuration or the split is not there, or a line is broken.
    """
    local = folder_in_environment() if datasets_dir is None else datasets_dir
    if local and not Path(local).is_dir():
        raise UserError(
            f"The data sets are to come from {local!r}, which is not a folder; give another with --datasets_dir or "
            f"{DATASETS_DIR_VARIABLE}."
        )
    rows = read_split(Path(local), source.hub_id, config, split) if local else _from_hub(source, config, split)
    if not rows:
        raise UserError(f"Split {split!r} of {source.hub_id} ({config}) has no rows.")
    return rows


def _from_hub(source: Source, config: str, split: str) -> list[Row]:
    hint = f"Or set {DATASETS_DIR_VARIABLE} to a folder of local copies."
    try:
        rows, _ = load_split(source.hub_id, source.revision, config, split)
    except UserError as error:
        raise UserError(f"{error} {hint}") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"Split {split!r} of {source.hub_id} ({config}) at revision {source.revision} could not be read: "
            f"{reason}. {hint}"
        ) from error
    return list(rows)
