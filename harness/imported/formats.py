"""Formats of result files by name, told apart by what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from harness.benchmarks.definitions import Benchmark
from harness.errors import UserError, unknown
from harness.imported import cot_csv, letters_jsonl, lm_eval_samples, plain_csv, summary
from harness.imported.rows import Row
from harness.imported.tables import csv_header, text_of

COT, SUMMARY, LM_EVAL, PLAIN, LETTERS = "cot-csv", "summary", "lm-eval", "csv", "letters-jsonl"
FORMATS = {
    COT: "*_cot.csv of the evaluator released with Cache-to-Cache",
    SUMMARY: "its *_summary.json: figures alone",
    LM_EVAL: "samples_*.jsonl of lm-evaluation-harness",
    PLAIN: f"CSV with a column letter or text, and any of {', '.join(plain_csv.COLUMNS)}",
    LETTERS: "JSON lines with the letters of several arms: truth, predicted (arm -> letter)",
}


def format_of(path: Path, named: str = "") -> str:
    """Returns the format of a file, as named or by its content.

    Raises:
        UserError: if the name is not known, or the content is that of no format.
    """
    if named:
        if named not in FORMATS:
            raise unknown("format", named, FORMATS)
        return named
    found = _told(text_of(path))
    if not found:
        listed = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        raise UserError(f"{path} is in none of the formats that can be imported. {listed}.")
    return found


def _told(text: str) -> str:
    """The format that a content is in; empty where it is in none."""
    first = _first_object(text)
    if first is None:
        header = csv_header(text)
        plain = PLAIN if set(header) & set(plain_csv.ANSWERS) else ""
        return COT if set(header).issuperset(cot_csv.NEEDED) else plain
    needed = {SUMMARY: summary.NEEDED, LM_EVAL: lm_eval_samples.NEEDED, LETTERS: letters_jsonl.NEEDED}
    return next((name for name, names in needed.items() if first.keys() >= set(names)), "")


def read_rows(path: Path, form: str, benchmark: Benchmark | None, wanted: str = "") -> list[Row]:
    """Reads the rows of a file in any format but a summary.

    Args:
        path: of the file.
        form: its format.
        benchmark: ours that it belongs to, if any.
        wanted: filter of lm-eval samples.

    Raises:
        UserError: if the file cannot be read, or a filter is named for another format.
    """
    if wanted and form != LM_EVAL:
        raise UserError(f"{path.name} is in the format {form}, which has no filters; leave --filter out.")
    rows: Iterator[Row]
    if form == LM_EVAL:
        rows = lm_eval_samples.read(path, benchmark, wanted)
    else:
        rows = {COT: cot_csv.read, PLAIN: plain_csv.read, LETTERS: letters_jsonl.read}[form](path)
    listed = list(rows)
    if not listed:
        raise UserError(f"{path} has no rows.")
    return listed


def _first_object(text: str) -> dict[str, object] | None:
    """The first JSON object of a file: all of it, or its first line."""
    stripped = text.lstrip()
    if not stripped.startswith("{"):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(stripped)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
