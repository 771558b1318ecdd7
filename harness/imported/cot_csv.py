"""`*_cot.csv` of the evaluator released with Cache-to-Cache: one row a question, with text, letter and latency.

`question_id` counts the rows of the data set within a subject, so that it is a place and no id. A benchmark without
subjects is written in parts called `SPLIT_0_OF_1` and so on. Of a question with more than four options the evaluator
lists the first four.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.imported.rows import Row, count_of, flag_of, letter_of, seconds_of
from harness.imported.tables import csv_rows

NEEDED = ("subject", "question_id", "question", "true_answer", "pred", "is_correct", "cot_output")
_OPTIONS = tuple("ABCDEFGHIJ")
_PART = re.compile(r"SPLIT_\d+_OF_\d+")
_GENERATED = "generate"


def read(path: Path) -> Iterator[Row]:
    """Yields the rows of a file.

    Raises:
        UserError: if a cell cannot be read.
    """
    for place, cells in csv_rows(path):
        yield _row(place, cells)


def _row(place: str, cells: Mapping[str, str]) -> Row:
    generated = cells.get("answer_method", _GENERATED) == _GENERATED
    pred = letter_of(cells["pred"], place)
    tokens = cells.get("cot_gen_length", "")
    return Row(
        place=place,
        index=count_of(cells["question_id"], place, "question_id"),
        subject="" if _PART.fullmatch(cells["subject"]) else cells["subject"],
        question=cells["question"],
        choices=_choices(cells),
        key=letter_of(cells["true_answer"], place) or None,
        letter=pred,
        text=cells["cot_output"] if generated else None,
        correct=flag_of(cells["is_correct"], place, "is_correct"),
        latency_s=seconds_of(cells.get("answer_latency_ms", ""), place, "ms"),
        tokens_out=count_of(tokens, place, "cot_gen_length") if tokens else None,
    )


def _choices(cells: Mapping[str, str]) -> tuple[str, ...]:
    """The options up to the last that has a text."""
    listed = [cells.get(letter, "") for letter in _OPTIONS]
    last = max((place for place, text in enumerate(listed) if text), default=-1)
    return tuple(listed[: last + 1])
