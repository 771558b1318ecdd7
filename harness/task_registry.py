"""Folders of benchmarks that other distributions and plug-in modules bring. Imports neither torch nor lm-eval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.registry import Registry


@dataclass(frozen=True)
class TaskEntry:
    """A folder with tasks of lm-eval.

    Attributes:
        name: of the benchmark, or of the collection.
        folder: holds lm-eval YAML files, in it or in folders of it; its tasks join those of the harness by their names.
        summary: one line for lists.
    """

    name: str
    folder: str | Path
    summary: str = ""


TASK_FOLDERS: Registry[TaskEntry] = Registry("task folder", "c2c_harness.tasks", kind=TaskEntry)


def task_folders() -> dict[Path, str]:
    """Returns every folder -> the name of its entry."""
    return {Path(entry.folder).resolve(): entry.name for entry in TASK_FOLDERS}
