"""One split of a data set on the hub, read from the files of one commit.

The `datasets` library serves whatever revision it has where the hub cannot be asked; here files are fetched first and
read from their folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, suggest
from harness.hub import Snapshot, Wanted, snapshot

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
    splits = _splits(entry.get("data_files"))
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


def _splits(data_files: object) -> dict[str, list[str]] | None:
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
