"""The rows of a training run: chats, or documents of a question's task, from a file or the hub.

A row in no known form is refused by its number before anything is computed. The reading of a row is not kept, so that
half a million rows take no memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from harness.benchmarks.views import KEYS as VIEW_KEYS
from harness.benchmarks.views import views_of
from harness.errors import UserError
from harness.models.chat import Conversation, Turn
from harness.records.files import sha256_file
from harness.training.example import Example, LeftOut, Reason, Row, is_chat, read_chat
from harness.training.recipe import Recipe


@dataclass(frozen=True)
class Corpus:
    """The rows of a training run.

    Attributes:
        rows: as they were read.
        fingerprint: says whether two runs read the same.
        wording: turns a question document into a prompt, where rows are such documents.
        as_released: read chats as the paper's trainer does, see `read_chat`.
    """

    rows: Sequence[Row]
    fingerprint: str
    wording: Callable[[Row], str] | None = None
    as_released: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Reads one row.

        Raises:
            UserError: if it is in no known form.
            LeftOut: if it holds what cannot be learned from.
        """
        example = self._example(index)
        try:
            example.text.encode()
        except UnicodeEncodeError as error:
            seen = f"{error.object[error.start]!a}"
            raise LeftOut(
                Reason.CHARACTER, f"{_row(index)} holds {seen}, which is half a character; take it out."
            ) from error
        return example

    def check(self) -> None:
        """Reads every row once, so that a row in no known form is refused before anything is computed.

        Raises:
            UserError: naming the first such row.
        """
        for index in range(len(self)):
            with suppress(LeftOut):
                self[index]

    def _example(self, index: int) -> Example:
        row = self.rows[index]
        if given := [key for key in VIEW_KEYS if row.get(key)]:
            raise UserError(f"{_row(index)} has {given[0]!r}, but {_ONE_VIEW}.")
        if self.wording is not None and {"question", "key"} <= row.keys():
            return _question(row, self.wording, _row(index))
        if is_chat(row):
            return read_chat(row, _row(index), self.as_released)
        raise UserError(
            f"{_row(index)} has the fields {', '.join(sorted(row))[:100]}; it needs `messages` or "
            "`conversations`, or `question` and `key` together with --prompt-of TASK."
        )


_ONE_VIEW = "in training receiver and sharer read the same; leave it out, or put the text into the turns"


def _row(index: int) -> str:
    return f"Row {index} of the training data"


def read_corpus(recipe: Recipe) -> Corpus:
    """Reads the recipe's data.

    Raises:
        UserError: if it cannot be read, or has no row to train on.
    """
    rows, fingerprint = _read(recipe)
    if len(rows) <= recipe.held_out_rows:
        raise UserError(f"{recipe.data} has {len(rows)} rows and {recipe.held_out_rows} are held out: none is left.")
    corpus = Corpus(rows, fingerprint, _wording(recipe.prompt_of), recipe.as_released)
    corpus.check()
    return corpus


def read_file(path: Path) -> Sequence[Row]:
    """Reads rows from JSON lines, or from one JSON array of objects.

    Raises:
        UserError: naming the line or the entry that is no JSON object.
    """
    if _first_character(path) != "[":
        from harness.benchmarks.sources import read_jsonl

        return read_jsonl(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} begins with [ but is no JSON array ({error}); give one array of objects, or one object a line."
        ) from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"Entry {number} of the array in {path} must be a JSON object, not {type(row).__name__}.")
    return cast(Sequence[Row], rows)


def _first_character(path: Path) -> str:
    """The first character that is no white space; empty for a file that has none or cannot be read as text."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return next((line.lstrip()[0] for line in iter(lambda: stream.readline(4096), "") if line.strip()), "")
    except (OSError, ValueError):
        return ""


def _read(recipe: Recipe) -> tuple[Sequence[Row], str]:
    path = Path(recipe.data).expanduser()
    if path.suffix in {".jsonl", ".json"} or path.exists():
        return read_file(path)[: recipe.max_rows], sha256_file(path)
    from datasets.exceptions import DatasetsError

    from harness.benchmarks.sources import load_split

    try:
        rows, commit = load_split(recipe.data, recipe.data_revision, recipe.data_config, recipe.data_split)
    except (UserError, OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"Training data {recipe.data!r} is no file and not on the hub: {reason}") from error
    count = min(len(rows), recipe.max_rows or len(rows))
    return rows.select(range(count)), f"{recipe.data}@{commit}/{recipe.data_split}:{count}"


def _wording(task: str | None) -> Callable[[Row], str] | None:
    if task is None:
        return None
    from harness.benchmarks import registry as index

    loaded = index.load([task])[0]
    if views_of(loaded) is not None:
        raise UserError(f"Task {task!r} gives its sharer a view of its own, but {_ONE_VIEW}.")
    return lambda row: str(loaded.doc_to_text(dict(row)))


def _question(row: Row, wording: Callable[[Row], str], where: str) -> Example:
    """Its key is learned; a row whose key is kept secret teaches nothing."""
    key, labels = row["key"], row.get("labels")
    if key is not None and (not isinstance(key, str) or (labels is not None and key not in labels)):
        raise UserError(f"{where} has the key {key!r:.40}; give one of its labels, or null.")
    try:
        text = wording(row)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{where} cannot be asked as --prompt-of says ({error!r:.100}); "
            "give it the fields of that task's documents."
        ) from error
    return Example(Conversation((Turn("user", text),)), key or "")
