"""Where the rows of a training come from: a file, or a data set of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from harness.benchmarks.views import views_of
from harness.errors import UserError
from harness.records.files import sha256_file
from harness.training.dataset import ONE_VIEW, Corpus, Row
from harness.training.recipe import Recipe


def read_corpus(recipe: Recipe) -> Corpus:
    """Reads the recipe's data.

    Raises:
        UserError: if it cannot be read, or has no row to train on.
    """
    rows, fingerprint = _read(recipe)
    if len(rows) <= recipe.held_out_rows:
        raise UserError(f"{recipe.data} has {len(rows)} rows and {recipe.held_out_rows} are held out: none is left.")
    task = None if recipe.prompt_of is None else _task(recipe.prompt_of)
    wording = None if task is None else lambda row: str(task.doc_to_text(dict(row)))
    corpus = Corpus(rows, fingerprint, wording, recipe.as_released, _tested(rows, task))
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


def _task(name: str) -> Any:
    from harness.benchmarks import registry as index

    loaded = index.load([name])[0]
    if views_of(loaded) is not None:
        raise UserError(f"Task {name!r} gives its sharer a view of its own, but {ONE_VIEW}.")
    return loaded


def _tested(rows: Sequence[Row], task: Any) -> int:
    """How many rows are questions that a task asks, whatever their options: a test on them would test memory."""
    if task is None:
        return 0
    asked = {document.get("question") for document in task.eval_docs} - {None}
    return sum(row.get("question") in asked for row in rows)
