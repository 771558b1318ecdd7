"""What a run needs of every row of a task: an id of its own, labels, and a key that is one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import UserError

_NEEDED = ("id", "labels", "key")


def check_rows(rows: Iterable[tuple[int, Mapping[str, Any]]], where: str) -> None:
    """Makes sure that every answer can be recorded under its question and compared with its key.

    Args:
        rows: number from 1 and row.
        where: what they are rows of, for sentences.

    Raises:
        UserError: a field is missing, labels or key are of another form, or two rows have one id.
    """
    numbers: dict[str, int] = {}
    for number, row in rows:
        place = f"Row {number} of {where}"
        _check_fields(row, place)
        _check_labels(row, place)
        # The records of a run name answers by id, so a second row of that name would be lost.
        first = numbers.setdefault(str(row["id"]), number)
        if first != number:
            raise UserError(f"{place} has the id {row['id']!r}, as row {first} has; give each row an id of its own.")


def _check_fields(row: Mapping[str, Any], place: str) -> None:
    missing = [name for name in _NEEDED if row.get(name) is None]
    if missing:
        raise UserError(
            f"{place} has no {' and no '.join(missing)}; a row needs id, labels and key. Tasks of lm-eval with other "
            "rows run through `python -m harness.lm_eval_bridge run`."
        )


def _check_labels(row: Mapping[str, Any], place: str) -> None:
    labels, key, choices = row["labels"], row["key"], row.get("choices")
    if not _are_texts(labels) or len(set(labels)) < len(labels):
        raise UserError(f"{place} has the labels {labels!r}; give a list of different texts, such as ['A', 'B'].")
    if isinstance(choices, Sequence) and not isinstance(choices, str) and len(choices) != len(labels):
        raise UserError(f"{place} has {len(labels)} labels and {len(choices)} choices; give one label a choice.")
    if key not in labels:
        raise UserError(f"{place} has the key {key!r}; give one of its labels, as text: {', '.join(labels)}.")


def _are_texts(labels: object) -> bool:
    return isinstance(labels, Sequence) and not isinstance(labels, str) and all(isinstance(one, str) for one in labels)


def check_targets(task: Any, rows: Iterable[tuple[int, Mapping[str, Any]]], where: str) -> None:
    """Makes sure that the right answer is one of the options where lm-eval compares options.

    Raises:
        UserError: it is not, so that every answer would count as wrong.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return
    for number, row in rows:
        options, target = task.doc_to_choice(row), task.doc_to_target(row)
        for one in target if isinstance(target, list) else [target]:
            if one not in options and not (isinstance(one, int) and 0 <= one < len(options)):
                raise UserError(
                    f"Row {number} of {where}: doc_to_target gives {one!r}, which is no option; give an option or its "
                    f"place from 0: {', '.join(map(str, options))}."
                )
