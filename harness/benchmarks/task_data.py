"""Which commit of its data set a task's rows are of, where lm-eval has loaded them.

The `datasets` library hands out whatever revision its cache has where the hub cannot be asked, without a word. What it
read is in the name of the folder that the rows lie in, so that is compared with what the task's file pins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records.schema import is_commit


def commit_read(task: Any) -> str:
    """The commit on the hub that a task's rows are from; empty for rows from elsewhere."""
    splits = task.dataset.values() if isinstance(task.dataset, Mapping) else ()
    files = [file["filename"] for rows in splits for file in getattr(rows, "cache_files", ())]
    found = {Path(file).parent.name for file in files}
    return found.pop() if len(found) == 1 and all(map(is_commit, found)) else ""


def is_open(task: Any) -> bool:
    """Whether a task's rows are from the hub and its file names no commit."""
    return bool(commit_read(task)) and not is_commit(_pin(task))


def check_pinned(tasks: Iterable[Any]) -> None:
    """Compares what was read with what tasks pin.

    Raises:
        UserError: the rows of a task are of another commit.
    """
    for task in tasks:
        pin, read = _pin(task), commit_read(task)
        if is_commit(pin) and read not in ("", pin):
            raise UserError(
                f"Task {task.config.task!r} pins {task.config.dataset_path} at {pin}, but rows of {read} were read, "
                "which the cache has where the hub cannot be asked; try again with the hub, or pin that commit."
            )


def _pin(task: Any) -> str | None:
    revision = (task.config.dataset_kwargs or {}).get("revision")
    return None if revision is None else str(revision)
