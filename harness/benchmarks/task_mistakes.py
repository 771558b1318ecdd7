"""What is wrong with a task file of one's own, or with its data, in one sentence.

lm-eval, datasets, Jinja and YAML raise errors of their own, often far from the cause. Only after one of them has failed
is the file looked at again, so that a task that works is never refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from harness.benchmarks.row_checks import check_rows
from harness.benchmarks.sources import Row, read_jsonl
from harness.errors import RunError, UserError, suggest

_LONGEST = 200


class PlainYaml(yaml.SafeLoader):
    """Reads task files without importing what they name."""


PlainYaml.add_constructor("!function", lambda loader, node: str(node.value))


@contextmanager
def said_of(file: Path | None) -> Iterator[None]:
    """Says in one sentence what goes wrong while lm-eval builds or renders a user's task.

    Args:
        file: the task's; None for tasks by name, where whatever is raised is a defect and stays as it is.

    Raises:
        UserError: naming file and reason.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        if file is None:
            raise
        raise UserError(f"Task file {file} cannot be used: {_reason(file, error)}") from error


def _reason(file: Path, error: Exception) -> str:
    try:
        config = yaml.load(file.read_text(encoding="utf-8"), PlainYaml)  # noqa: S506 - a safe one
    except yaml.MarkedYAMLError as broken:
        return _of_yaml(broken)
    except (yaml.YAMLError, UnicodeDecodeError):
        return "it is not UTF-8 text; save it as UTF-8."
    if not isinstance(config, Mapping):
        return "it is no list of keys and values; write task, dataset_path, doc_to_text and so on."
    return _of_keys(config, error) or _of_split(config) or _of_data(config, error) or f"{_short(error)}; mend that."


def _of_yaml(broken: yaml.MarkedYAMLError) -> str:
    mark = broken.problem_mark
    line = f" in line {mark.line + 1}" if mark else ""
    return f"it is not valid YAML{line}: {broken.problem}; mend that line or the one before."


def _of_keys(config: Mapping[str, Any], error: Exception) -> str:
    """Names the key that lm-eval does not know, where that is what it says."""
    from lm_eval.api.task import TaskConfig

    known = [field.name for field in fields(TaskConfig)]
    wrong = [str(key) for key in config if f"keyword argument {str(key)!r}" in str(error)]
    return f"{wrong[0]!r} is no key of a task.{suggest(wrong[0], known)} Mend or remove it." if wrong else ""


def _of_split(config: Mapping[str, Any]) -> str:
    there = _data_files(config)
    for key in ("test_split", "validation_split", "training_split", "fewshot_split"):
        split = config.get(key)
        if isinstance(there, Mapping) and split is not None and split not in there:
            return f"{key} is {split!r}, but data_files has {', '.join(map(str, there))}; name one of these."
    return ""


def _of_data(config: Mapping[str, Any], error: Exception) -> str:
    """Reads the JSON lines again, which finds the file and the line at fault."""
    asked: list[Row] = []
    try:
        for split, path in _json_lines(config):
            rows = read_jsonl(path)
            if not rows:
                return f"{path} has no rows; write one JSON object a line."
            asked += rows if split in (None, config.get("test_split")) else []
        if "process_docs" not in config:
            check_rows(enumerate(asked, start=1), "its data")
    except UserError as found:
        return str(found)
    return _of_fields(config, asked[0], error) if asked else ""


def _of_fields(config: Mapping[str, Any], row: Row, error: Exception) -> str:
    """Names a field that the file asks for and a row lacks."""
    from jinja2 import UndefinedError

    there, choice = f"the fields of a row are {', '.join(row)}.", config.get("doc_to_choice")
    if isinstance(choice, str) and choice.isidentifier() and choice not in row:
        return f"doc_to_choice is {choice!r}, but {there}"
    return f"{error}; {there}" if isinstance(error, UndefinedError) else ""


def _json_lines(config: Mapping[str, Any]) -> Iterator[tuple[str | None, Path]]:
    """Yields split and file; None where the file names no splits."""
    given = _data_files(config)
    for split, named in given.items() if isinstance(given, Mapping) else [(None, given)]:
        for path in named if isinstance(named, list) else [named]:
            if str(path).endswith(".jsonl") and not any(sign in str(path) for sign in ("://", "*", "?")):
                yield split, Path(str(path))


def _data_files(config: Mapping[str, Any]) -> Any:
    added = config.get("dataset_kwargs")
    return added.get("data_files") if isinstance(added, Mapping) else None


def _short(error: Exception) -> str:
    """The first line of an error, with its kind where the text alone says too little."""
    lines = str(error).strip().splitlines()
    text = lines[0][:_LONGEST].rstrip(".;") if lines else ""
    return f"{text} ({type(error).__name__})" if text else type(error).__name__
