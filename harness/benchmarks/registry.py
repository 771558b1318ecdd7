"""Benchmarks by name: ours, those of other distributions, and the number of questions each declares.

Listing scans the task files of the harness, of other distributions and of plug-in modules, and imports neither torch
nor lm-eval. A name means one of these tasks: patterns and lm-eval's own tasks are refused, because a record must say
which version was run. A user's own task is given by its YAML file and may not have the name of one of ours.

Guarantees that a score is never reported under a benchmark's name for another number of questions than the benchmark
declares, unless a limit says that it is one of fewer.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.benchmarks.definitions import BENCHMARKS
from harness.benchmarks.task_data import check_pinned
from harness.benchmarks.task_mistakes import PlainYaml, said_of
from harness.errors import UserError, unknown
from harness.paths import TASKS, program
from harness.registry import Registry

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


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


def check_counts(tasks: Iterable[Task]) -> None:
    """Compares what was loaded with what is declared, for every benchmark of which all parts are among the tasks.

    Args:
        tasks: loaded tasks, each once.

    Raises:
        UserError: if the counts differ.
    """
    by_benchmark: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in tasks:
        by_benchmark[_benchmark_name(task), _form(task)].append(task)
    for (name, _), members in by_benchmark.items():
        _check_count(name, members)


def _check_count(name: str, members: list[Task]) -> None:
    benchmark = BENCHMARKS.get(name)
    parts = max(1, sum(map(len, benchmark.subjects.values()))) if benchmark else 1
    declared = _metadata(members[0]).get("benchmark_rows")
    present = sum(len(task.eval_docs) for task in members)
    if declared is None or len(members) != parts or present == declared:
        return
    source = f" of {benchmark.source.hub_id} at revision {benchmark.source.revision}" if benchmark else ""
    raise UserError(
        f"{name} declares {declared} questions, but its data has {present}; use the data{source}, "
        "or give --limit to ask fewer on purpose."
    )


def _benchmark_name(task: Task) -> str:
    return str((task.config.dataset_kwargs or {}).get("benchmark", task.config.task))


def _form(task: Task) -> str:
    return str(task.config.output_type)


def _metadata(task: Task) -> dict[str, Any]:
    return dict(task.config.metadata or {})


_NAME = re.compile(r"^(group|task):[ \t]+['\"]?([\w.-]+)['\"]?[ \t]*$", re.MULTILINE)


def available_tasks() -> dict[str, str]:
    """Returns task name -> "task" or "group", sorted by name."""
    return {name: kind for name, kind, _ in sorted(_entries())}


def headline_names() -> list[str]:
    """Returns the names that stand for whole benchmarks, without their subjects and categories."""
    return sorted(name for name, _, path in _entries() if len(path.parts) <= 2)


def task_manager(datasets_dir: str | None = None, names: Collection[str] = ()) -> TaskManager:
    """Returns an lm-eval task manager that knows the tasks of the harness and of its plug-ins only.

    Args:
        datasets_dir: folder of local copies of the data sets, see `harness.benchmarks.sources.read_rows`.
        names: what will be asked of it. Where these are tasks of the harness alone, it reads their benchmarks' files
            and no others.
    """
    from lm_eval.tasks import TaskManager

    added: Any = {} if datasets_dir is None else {"datasets_dir": datasets_dir}
    folders = _folders_of(names) or [TASKS, *task_folders()]
    return TaskManager(include_path=list(map(str, folders)), include_defaults=False, metadata=added)


def _folders_of(names: Collection[str]) -> list[Path]:
    """The benchmarks' folders that hold these tasks; none if one of them is not the harness's own."""
    files = {name: file for name, _, file in _files() if file.is_relative_to(TASKS)}
    if not all(name in files for name in names):
        return []
    return sorted({TASKS / files[name].relative_to(TASKS).parts[0] for name in names})


def load(names: Iterable[str], datasets_dir: str | None = None) -> list[Task]:
    """Loads tasks with their documents, groups flattened.

    Args:
        names: tasks and groups; a task that is named twice, also through groups, is loaded once.
        datasets_dir: folder of local copies of the data sets, see `harness.benchmarks.sources.read_rows`.

    Returns:
        lm-eval tasks in the order of `names` and, within a group, of its members.

    Raises:
        UserError: if a name is unknown, or the data of a task is missing, malformed or of another commit than it pins.
    """
    wanted = list(dict.fromkeys(names))
    known = available_tasks()
    for name in wanted:
        _check(name, known)
    manager = task_manager(datasets_dir, wanted)
    tasks: dict[str, Task] = {}
    for name in wanted:
        with said_of(own_file(name)):
            loaded = manager.load([name])["tasks"]
        for member, task in loaded.items():
            if own_file(name) and member in known:
                raise UserError(f"{name} names its task {member!r}, as one of this harness; give it another name.")
            tasks.setdefault(member, task)
    check_pinned(tasks.values())
    return list(tasks.values())


def recorded_name(name: str) -> str:
    """What a task or group is called in records: its name, also where it is given by its file."""
    if not own_file(name):
        return name
    found = _NAME.search(Path(name).read_text(encoding="utf-8", errors="replace"))
    return found.group(2) if found else Path(name).stem


def check_own_names(names: Iterable[str]) -> None:
    """Makes sure that no two files name one task, of which the second would not be asked.

    Raises:
        UserError: two do.
    """
    files: dict[str, str] = {}
    for name in filter(own_file, names):
        other = files.setdefault(recorded_name(name), name)
        if other != name:
            raise UserError(f"{other} and {name} both name {recorded_name(name)!r}; give one another name.")


def own_file(name: str) -> Path | None:
    """The YAML file of one's own that a task is given by; those of this folder are given by name."""
    path = Path(name)
    own = name.endswith((".yaml", ".yml")) and path.is_file() and not path.resolve().is_relative_to(TASKS.resolve())
    return path if own else None


def has_strata(name: str) -> bool:
    """Whether a group declares that its tasks are strata: parts whose sizes are fixed by design.

    Raises:
        UserError: if its file says anything but true or false.
    """
    declared = task_metadata(name).get("strata", False)
    if not isinstance(declared, bool):
        raise UserError(f"metadata.strata of task {name!r} is {declared!r}; allowed: true, false.")
    return declared


@functools.cache
def task_metadata(name: str) -> Mapping[str, Any]:
    """What the file of a task or group of this folder says of it, without its documents; nothing for others."""
    paths = [file for entry, _, file in _files() if entry == name]
    read: Any = yaml.load(paths[0].read_text(encoding="utf-8"), PlainYaml) if paths else {}  # noqa: S506 - a safe one
    return dict(read.get("metadata") or {})


def _check(name: str, known: Iterable[str]) -> None:
    if own_file(name):
        return
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise UserError(
            f"A task is given by its name, not by a path: {name!r} is no YAML file outside of this harness. Known are "
            f"{', '.join(headline_names())}."
        )
    if name not in known:
        raise unknown("task", name, [*headline_names(), *known], f"{program()} ls")


def tasks_brought_by() -> dict[str, str]:
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
