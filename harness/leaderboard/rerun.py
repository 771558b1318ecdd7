"""The command that asks the questions of a record again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from harness.config import RunConfig
from harness.records.schema import RunRecord

_REPEATED = {"sharers": "sharer", "fusers": "fuser"}
_OFF = {"chat": "no-chat-template"}


def rerun_command(run: RunRecord) -> str:
    """Writes the settings that decide a run's answers as a command; what is as usual is left out.

    Where the questions came from is no such setting, but on the machine of the run they are found there again.
    """
    words = ["python", "run_eval.py", "run"]
    for name, field in RunConfig.model_fields.items():
        value = run.identity_fields.get(name)
        if value in (None, "", [], {}) or value == field.default:
            continue
        words += _flag(name, value)
    if folder := run.config.get("datasets_dir"):
        words += _flag("datasets_dir", folder)
    return " ".join(map(shlex.quote, words))


def _flag(name: str, value: Any) -> Iterator[str]:
    if value is False:
        yield f"--{_OFF.get(name, f'no-{name}')}"
    elif value is True:
        yield f"--{name}"
    elif name in _REPEATED:
        for one in value:
            yield from (f"--{_REPEATED[name]}", str(one))
    else:
        yield f"--{name}"
        if isinstance(value, dict):
            yield ",".join(f"{key}={one}" for key, one in value.items())
        else:
            yield ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
