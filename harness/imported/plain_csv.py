"""A plain CSV: a letter or a text a row, and further columns under fixed names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.errors import UserError
from harness.imported.rows import Row, count_of, flag_of, letter_of, seconds_of
from harness.imported.tables import csv_header, csv_rows, refuse_unknown, text_of

ANSWERS = ("letter", "text")
COLUMNS = (
    "id", "subject", "question", "key", *ANSWERS, "correct", "latency_s", "latency_ms", "tokens_out", "arm",
)  # fmt: skip


def read(path: Path) -> Iterator[Row]:
    """Yields the rows of a file.

    Raises:
        UserError: if a column is not known, neither answers nor a unit stand once, or a cell cannot be read.
    """
    header = csv_header(text_of(path))
    refuse_unknown(header, COLUMNS, path.name)
    if not set(ANSWERS) & set(header):
        raise UserError(f"{path.name} has no column letter and no column text; one of them is needed.")
    if {"latency_s", "latency_ms"} <= set(header):
        raise UserError(f"{path.name} has latencies in s and in ms; keep one of the two columns.")
    for place, cells in csv_rows(path):
        yield _row(place, cells)


def _row(place: str, cells: Mapping[str, str]) -> Row:
    unit = "s" if "latency_s" in cells else "ms"
    return Row(
        place=place,
        arm=cells.get("arm", ""),
        id=_given(cells, "id"),
        subject=cells.get("subject", ""),
        question=_given(cells, "question"),
        key=letter_of(cells.get("key", ""), place) or None,
        letter=letter_of(cells["letter"], place) if "letter" in cells else None,
        text=cells.get("text"),
        correct=flag_of(cells.get("correct", ""), place, "correct"),
        latency_s=seconds_of(cells.get(f"latency_{unit}", ""), place, unit),
        tokens_out=count_of(cells["tokens_out"], place, "tokens_out") if cells.get("tokens_out") else None,
    )


def _given(cells: Mapping[str, str], name: str) -> str | None:
    return cells.get(name) or None
