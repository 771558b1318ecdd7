"""`python -m harness.lm_eval_bridge run --model c2c ...`: lm-eval's own command line with our models and tasks.

Guarantees that a name which lm-eval has a task for means lm-eval's task; ours of that name run where their folder is
asked for (`--include_path tasks`). For lm-eval releases without plugins; later ones find the models through this
distribution's entry points.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.benchmarks.task_data import check_pinned
from harness.errors import ended
from harness.paths import TASKS
from harness.registry import load_plugins

_OURS = "tasks"

_MODEL_ARGS = "--model_args="

_HELP = """Beside lm-eval's own models there are those of this harness, for example:

  python -m harness.lm_eval_bridge run --model c2c --tasks arc_easy --apply_chat_template \\
    --model_args receiver=MODEL,sharer=MODEL,fuser=FOLDER

docs/lm_eval.md lists them with their arguments. What follows is lm-eval's help.
"""


def main() -> int:
    """Registers the models and hands over to lm-eval."""
    from lm_eval import tasks
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker

    load_plugins(plugins_in(sys.argv[1:]))
    import harness.lm_eval_bridge.model  # noqa: F401 - registers

    sys.argv[1:] = _with_our_folder(sys.argv[1:])
    if {"-h", "--help"} & set(sys.argv[1:]) or sys.argv[1:] in ([], ["run"]):
        print(_HELP)
    manager = with_our_tasks(tasks.TaskManager)
    names = staticmethod(_with_our_names(GeneralConfigTracker._get_model_name))
    with _replaced(tasks, "TaskManager", manager), _replaced(GeneralConfigTracker, "_get_model_name", names):
        cli_evaluate()
    return 0


def plugins_in(arguments: Sequence[str]) -> list[str]:
    """Returns the plug-ins that ``model_args`` name, so that ``--model`` may name what they bring."""
    pairs = (pair.partition("=") for argument in arguments for pair in argument.removeprefix(_MODEL_ARGS).split(","))
    return [name for key, _, value in pairs if key.strip() == "plugin" for name in value.split(";") if name]


def _with_our_folder(arguments: list[str]) -> list[str]:
    """Finds the folder `tasks` of this package from every working folder."""
    if Path(_OURS).is_dir():
        return arguments
    found = [f"--include_path={TASKS}" if word == f"--include_path={_OURS}" else word for word in arguments]
    for before, word in enumerate(found[1:]):
        if (found[before], word) == ("--include_path", _OURS):
            found[before + 1] = str(TASKS)
    return found


def with_our_tasks(usual: Any) -> Any:
    """Returns lm-eval's task manager with this harness's tasks in it."""
    stock = Path(sys.modules[usual.__module__].__file__ or "").parent

    class TaskManager(usual):
        """Knows our tasks too, except where lm-eval has one of the name; refuses rows of another commit than pinned."""

        def __init__(self, *, include_path: Any = None, **more: Any) -> None:
            if include_path is None:
                # Folders that are named later win, which is meant here and nothing to warn of.
                with _unsaid(f"overrides existing task from {TASKS}"):
                    super().__init__(include_path=[TASKS, stock], **{**more, "include_defaults": False})
            else:
                super().__init__(include_path=include_path, **more)

        def load(self, task_list: Any) -> Any:
            loaded = super().load(task_list)
            check_pinned(loaded["tasks"].values())
            return loaded

    return TaskManager


@contextmanager
def _unsaid(words: str) -> Iterator[None]:
    """Keeps lm-eval's index of tasks from logging what holds these words."""
    log = logging.getLogger("lm_eval.tasks._index")

    def wanted(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _with_our_names(usual: Any) -> Any:
    """lm-eval finds no name in ``receiver=...`` and would make one up, another one in every run."""
    from harness.lm_eval_bridge.record import name_in

    return lambda given: (name_in(given) if isinstance(given, dict) else None) or usual(given)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    usual = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, usual)


if __name__ == "__main__":
    sys.exit(ended(main))
