"""How many questions a benchmark declares, against how many its data has.

Guarantees that a score is never reported under a benchmark's name for another number of questions, unless a limit says
that it is one of fewer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from tasks.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from lm_eval.api.task import Task


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
        _check(name, members)


def _check(name: str, members: list[Task]) -> None:
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
