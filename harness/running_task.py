"""The lm-eval task that a request belongs to.

lm-eval hands a model the rows of its tasks and no task, so what a task's `metadata` says of its prompts is not among a
request's arguments. It is read off the running evaluation: the tasks are local variables of
`lm_eval.evaluator.evaluate`, which is below the model's methods on this thread's stack, whoever called it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_EVALUATOR = "lm_eval.evaluator"


def running_task(name: str | None) -> Any | None:
    """Returns the task of this name of the evaluation that is running; None outside of one."""
    frame = sys._getframe()
    while frame is not None and name is not None:
        if frame.f_globals.get("__name__") == _EVALUATOR:
            for value in frame.f_locals.values():
                task = value.get(name) if isinstance(value, Mapping) else None
                if hasattr(task, "doc_to_text") and hasattr(task, "config"):
                    return task
        frame = frame.f_back  # type: ignore[assignment]
    return None
