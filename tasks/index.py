"""Names of the tasks, and tasks by name.

Guarantees that listing costs a scan of the task files and no import of lm-eval, and that a name means a
task of this folder: patterns and lm-eval's own tasks are refused, because a record must say which of our
versions was run. A task of one's own is given by its YAML file and may not have the name of one of ours.
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
from harness.task_registry import task_folders

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


_NAME = re.compile(r"^(group|task):[ \t]+['\"]?([\w.-]+)['\"]?[ \t]*$", re.MULTILINE)


def available() -> dict[str, str]:
    """Returns task name -> "task" or "group", sorted by name."""
    return {name: kind for name, kind, _ in sorted(_entries())}


def headlines() -> list[str]:
    """Returns the names that stand for whole benchmarks, without their subjects and categories."""
    return sorted(name for name, _, path in _entries() if len(path.parts) <= 2)


def task_manager(datasets_dir: str | None = None) -> TaskManager:
    """Returns an lm-eval task manager that knows the tasks of this folder only.

    Args:
        datasets_dir: folder of local copies of the data sets, see `tasks.sources.read_rows`.
    """
    from lm_eval.tasks import TaskManager

    added: Any = {} if datasets_dir is None else {"datasets_dir": datasets_dir}
    return TaskManager(include_path=[str(TASKS), *map(str, task_folders())], include_defaults=False, metadata=added)


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
            if _is_file(name) and member in known:
                raise UserError(f"{name} names its task {member!r}, as one of this harness; give it another name.")
            tasks.setdefault(member, task)
    return list(tasks.values())


def label(name: str) -> str:
    """What a task or group is called in records: its name, also where it is given by its file."""
    if not _is_file(name):
        return name
    found = _NAME.search(Path(name).read_text(encoding="utf-8"))
    return found.group(2) if found else Path(name).stem


def _is_file(name: str) -> bool:
    """Whether a task is given by a YAML file of one's own; those of this folder are given by name."""
    path = Path(name)
    return name.endswith((".yaml", ".yml")) and path.is_file() and not path.resolve().is_relative_to(TASKS.resolve())


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
    paths = [file for entry, _, file in _files() if entry == name]
    read: Any = yaml.load(paths[0].read_text(encoding="utf-8"), _Plain) if paths else {}  # noqa: S506 - a safe one
    return dict(read.get("metadata") or {})


class _Plain(yaml.SafeLoader):
    """Reads task files without importing what they name."""


_Plain.add_constructor("!function", lambda loader, node: str(node.value))


def _check(name: str, known: Iterable[str]) -> None:
    if _is_file(name):
        return
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise UserError(
            f"A task is given by its name, not by a path: {name!r} is no YAML file outside of this harness. Known are "
            f"{', '.join(headlines())}."
        )
    if name not in known:
        near = suggest(name, known)
        raise UserError(f"Unknown task {name!r}; allowed: {', '.join(headlines())} and their subjects.{near}")


def brought() -> dict[str, str]:
    """Returns task or group of another folder -> the name of the entry with that folder."""
    folders = task_folders().items()
    pairs = ((name, entry) for name, _, file in _files() for folder, entry in folders if file.is_relative_to(folder))
    return dict(pairs)


def _entries() -> Iterator[tuple[str, str, Path]]:
    """Yields name, kind and path within its folder of every task and group."""
    folders = (TASKS, *task_folders())
    for name, kind, file in _files():
        folder = next(folder for folder in folders if file.is_relative_to(folder))
        yield name, kind, file.relative_to(folder)


def _files() -> Iterator[tuple[str, str, Path]]:
    seen: dict[str, Path] = {}
    for folder in (TASKS, *task_folders()):
        if not folder.is_dir():
            raise UserError(f"Task folder {str(folder)!r} is not there; mend the plug-in or distribution naming it.")
        for file in folder.rglob("*.yaml"):
            found = _NAME.search(file.read_text(encoding="utf-8"))
            if found is None:
                continue
            if folder != TASKS and found.group(2) in seen:
                raise UserError(f"{file} and {seen[found.group(2)]} both name {found.group(2)!r}; rename one of them.")
            seen.setdefault(found.group(2), file)
            yield found.group(2), found.group(1), file
