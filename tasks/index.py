"""Names of the tasks, and tasks by name.

Guarantees that listing costs a scan of the task files and no import of lm-eval, and that loading is
closed over this folder: paths, patterns and lm-eval's own tasks are refused, because a record must
say which of our versions was run.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import UserError, suggest
from harness.paths import TASKS

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


_NAME = re.compile(r"^(group|task):[ \t]+['\"]?([\w.-]+)['\"]?[ \t]*$", re.MULTILINE)


def available() -> dict[str, str]:
    """Returns task name -> "task" or "group", sorted by name."""
    return {name: kind for name, kind, _ in sorted(_entries())}


def headlines() -> list[str]:
    """Returns the names that stand for whole benchmarks, without their subjects and categories."""
    return sorted(name for name, _, path in _entries() if len(path.parts) == 2)


def task_manager(datasets_dir: str | None = None) -> TaskManager:
    """Returns an lm-eval task manager that knows the tasks of this folder only.

    Args:
        datasets_dir: folder of local copies of the data sets, see `tasks.sources.read_rows`.
    """
    from lm_eval.tasks import TaskManager

    added: Any = {} if datasets_dir is None else {"datasets_dir": datasets_dir}
    return TaskManager(include_path=str(TASKS), include_defaults=False, metadata=added)


def load(names: Iterable[str], datasets_dir: str | None = None) -> list[Task]:
    """Loads tasks with their documents, groups flattened.

    Args:
        names: tasks and groups; a task that is named twice, also through groups, is loaded once.
        datasets_dir: folder of local copies of the data sets, see `tasks.sources.read_rows`.

    Returns:
        lm-eval tasks in the order of `names` and, within a group, of its members.

    Raises:
        UserError: if a name is unknown or the data of a task is missing or malformed.
    """
    wanted = list(dict.fromkeys(names))
    known = available()
    for name in wanted:
        _check(name, known)
    manager = task_manager(datasets_dir)
    tasks: dict[str, Task] = {}
    for name in wanted:
        for member, task in manager.load([name])["tasks"].items():
            tasks.setdefault(member, task)
    return list(tasks.values())


def stratified(name: str) -> bool:
    """Whether a group declares that its tasks are strata: parts whose sizes are fixed by design.

    Raises:
        UserError: if its file says anything but true or false.
    """
    declared = metadata(name).get("strata", False)
    if not isinstance(declared, bool):
        raise UserError(f"metadata.strata of task {name!r} is {declared!r}; allowed: true, false.")
    return declared


@functools.cache
def metadata(name: str) -> Mapping[str, Any]:
    """What the file of a task or group of this folder says of it, without its documents; nothing for others."""
    paths = [path for entry, _, path in _entries() if entry == name]
    read: Any = yaml.load((TASKS / paths[0]).read_text(encoding="utf-8"), _Plain) if paths else {}  # noqa: S506 - a safe one
    return dict(read.get("metadata") or {})


class _Plain(yaml.SafeLoader):
    """Reads task files without importing what they name."""


_Plain.add_constructor("!function", lambda loader, node: str(node.value))


def _check(name: str, known: Iterable[str]) -> None:
    if "/" in name or "\\" in name:
        raise UserError(f"A task is given by its name, not by a path: {name!r}. Known are {', '.join(headlines())}.")
    if name not in known:
        near = suggest(name, known)
        raise UserError(f"Unknown task {name!r}; allowed: {', '.join(headlines())} and their subjects.{near}")


def _entries() -> Iterator[tuple[str, str, Path]]:
    for path in TASKS.rglob("*.yaml"):
        found = _NAME.search(path.read_text(encoding="utf-8"))
        if found:
            yield found.group(2), found.group(1), path.relative_to(TASKS)
