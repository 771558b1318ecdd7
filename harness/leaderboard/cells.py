"""A board's cells: short forms, at most four narrow columns a table, escaped for Markdown.

A table on a telephone is 358 pixels wide, so that figures of one row stand below each other and long names may break.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from harness.channels.registry import RECEIVER
from harness.leaderboard.pairs import Pair
from harness.leaderboard.trainings import TrainingsRow
from harness.results.comparisons import has_message
from harness.results.formatting import (
    bytes_text,
    csv_cell,
    interval_text,
    markdown,
    p_text,
    percent_text,
    points_text,
    ratio_text,
    seconds_text,
)
from harness.results.frame import MEASURED, ranking
from harness.results.terminal_table import github_table

BREAK = "<br>"
_SOFT = {"communicates": "communi&shy;cates", "misinformation": "misinfor&shy;mation", "mismatched": "mis&shy;matched"}
_JOINTS = re.compile(r"(?<=[/_:=])(?=\w)|(?<=-)(?=\w)")
Row = Any  # a row of `harness.results.frame`, by the names of its columns

# Of more than a hundred columns; rows are selected and read many times a page, which costs by the column.
READ = (
    "task", "receiver", "sharers", "channel", "control", "arm", "variant", "kind", "source", "run_id", "started_at",
    "hardware", "accuracy", "accuracy_low", "accuracy_high", "accuracy_strict", "n", "errors", "invalid", "verdict",
    "verdict_text", "ttft_s_p50", "ttft_s_p90", "ttft_ratio", "e2e_s_p50", "e2e_s_p90", "e2e_s_mean", "speed_up",
    "payload_bytes", "to_receiver", "trainings", "recipe",
)  # fmt: skip
"""Columns that tables read, and those that say which row stands in which of them."""


def read_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Selects the columns of `READ` that there are."""
    selected: pd.DataFrame = rows[[name for name in READ if name in rows.columns]]
    return selected


def _listed(rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return read_columns(rows).to_dict("records")


def table(columns: Mapping[str, Iterable[str]], left: int = 1) -> str:
    """Renders columns of escaped cells as a Markdown table; the first `left` columns are words."""
    frame = pd.DataFrame({name: list(cells) for name, cells in columns.items()}, dtype=object)
    return github_table(frame, list(columns)[:left])


def name_text(name: str) -> str:
    """Escapes a name that may break at its joints."""
    pieces = [_SOFT.get(piece, markdown(piece)) for piece in _JOINTS.split(name)]
    return "<wbr>".join(pieces)


def model_text(reference: str) -> str:
    """Names a model by the last part of its reference."""
    return name_text(reference.rstrip("/").rpartition("/")[2])


def pair_text(pair: Pair) -> str:
    """Names a pair in short, receiver first."""
    sharers = [model_text(one) for one in pair.sharers.split(" + ") if one]
    return f"{model_text(pair.receiver)} ← {' + '.join(sharers)}" if sharers else model_text(pair.receiver)


def asked_text(rows: Sequence[Row]) -> str:
    """How many questions stand behind some rows; empty where nobody said."""
    counts = sorted({int(row["n"]) for row in rows if pd.notna(row["n"]) and row["n"]})
    return f"n = {' to '.join(dict.fromkeys([str(counts[0]), str(counts[-1])]))}" if counts else ""


def overview_rows(pair: Pair) -> list[Row]:
    """Chooses receiver, best baseline and best channel; of a pair without them its controls."""
    read = read_columns(pair.rows)
    best = ranking(read).to_dict("records")
    message = [row for row in best if has_message(row["channel"])]
    others = [row for row in best if not has_message(row["channel"])]
    receiver = [row for row in others if row["channel"] == RECEIVER]
    baseline = [row for row in others if row["channel"] != RECEIVER]
    rows = [*receiver[:1], *baseline[:1], *message[:1]]
    return rows or [row for row in read.to_dict("records") if row["control"]]


def overview_cells(shown: Sequence[Row]) -> tuple[str, str]:
    """Returns the accuracies of what `overview_rows` chose, and the verdict and cost of the last."""
    scores = BREAK.join(f"{name_text(row['arm'])} {accuracy_text(row)}" for row in shown)
    return scores, _judged(shown[-1]) if shown else ""


def _judged(row: Row) -> str:
    """A row's verdict and cost, and that nobody timed it where it was run here."""
    untimed = row["kind"] == MEASURED and pd.isna(row["e2e_s_p50"])
    return stack_cells(_SOFT.get(row["verdict"], row["verdict"]), "not timed" if untimed else "", cost_text(row))


def ranking_table(rows: pd.DataFrame) -> str:
    """Renders a ranking."""
    listed = _listed(rows)
    most = rows["n"].max()
    return table(
        {
            "channel": [stack_cells(name_text(row["arm"]), _seeds(row), _fewer(row, most)) for row in listed],
            "accu&shy;racy": [accuracy_text(row) for row in listed],
            "gain": [_with(points_text, row["to_receiver"]) for row in listed],
            "cost": [cost_text(row) for row in listed],
        }
    )


def score_table(rows: pd.DataFrame, runs: Mapping[str, str]) -> str:
    """Renders every arm of a pair; `runs` gives each run's letter."""
    listed = _listed(rows)
    return table(
        {
            "channel": [stack_cells(name_text(row["arm"]), markdown(row["variant"])) for row in listed],
            "accu&shy;racy": [stack_cells(accuracy_text(row), _strict(row)) for row in listed],
            "n": [_counts(row, runs) for row in listed],
        }
    )


def time_table(rows: pd.DataFrame, runs: Mapping[str, str]) -> str:
    """Renders the times of the arms that were timed; empty where none was."""
    listed = _listed(rows[rows["e2e_s_p50"].notna()])
    columns = {
        "channel": [stack_cells(name_text(row["arm"]), runs.get(row["run_id"], "")) for row in listed],
        "TTFT": [
            stack_cells(*(_with(seconds_text, row[f"ttft_s_{part}"]) for part in ("p50", "p90"))) for row in listed
        ],
        "end to end": [
            stack_cells(*(_with(seconds_text, row[f"e2e_s_{p}"]) for p in ("p50", "p90"))) for row in listed
        ],
        "over T2T": [_with(ratio_text, row["speed_up"]) for row in listed],
    }
    return table(columns) if listed else ""


def difference_table(rows: pd.DataFrame, runs: Mapping[str, str]) -> str:
    """Renders what `pivot_differences` gives; `runs` gives each run's letter, if there are runs."""
    listed = rows.to_dict("records")
    return table(
        {
            "difference": [
                stack_cells(name_text(row["arm"]), name_text(row["comparison"]), runs.get(row.get("run_id", ""), ""))
                for row in listed
            ],
            "points": [
                stack_cells(_with(points_text, row["difference"]), _bounds(row["low"], row["high"], signed=True))
                for row in listed
            ],
            "verdict": [_verdict(row) for row in listed],
        }
    )


def reported_table(rows: pd.DataFrame) -> str:
    """Renders what others reported: arms of a source with what tells them apart; what was not reported is blank."""
    listed = _listed(rows)
    return table(
        {
            "channel": [stack_cells(name_text(row["arm"]), name_text(row["variant"])) for row in listed],
            "accu&shy;racy": [stack_cells(accuracy_text(row), _invalid(row)) for row in listed],
            "gain": [_with(points_text, row["to_receiver"]) for row in listed],
            "cost": [stack_cells(_median(row), cost_text(row)) for row in listed],
        }
    )


def details(summary: str, parts: Iterable[str]) -> str:
    """Folds parts of a page away under a line."""
    return "\n\n".join([f"<details>\n<summary>{summary}</summary>", *parts, "</details>"])


def trainings_table(rows: Sequence[TrainingsRow]) -> str:
    """Renders quantities over several trainings."""
    return table(
        {
            "what": [stack_cells(name_text(row.quantity.text), name_text(row.quantity.title)) for row in rows],
            "mean": [_mean(row) for row in rows],
            "each": [_each(row) for row in rows],
        }
    )


def accuracy_text(row: Row) -> str:
    """Writes an accuracy in percent with its interval."""
    return stack_cells(_with(percent_text, row["accuracy"]), _bounds(row["accuracy_low"], row["accuracy_high"]), by=" ")


def cost_text(row: Row) -> str:
    """Writes the TTFT over the receiver's and the message's size, or a reported mean time under its name."""
    ratio: str = "" if pd.isna(row["ttft_ratio"]) else f"TTFT {ratio_text(row['ttft_ratio'])}"
    mean: str = "" if pd.isna(row["e2e_s_mean"]) else f"{seconds_text(row['e2e_s_mean'])} mean"
    size = _with(bytes_text, row["payload_bytes"]) if has_message(row["channel"]) else ""
    return stack_cells(ratio, mean, size)


def _invalid(row: Row) -> str:
    return f"{row['invalid']} inv." if _some(row["invalid"]) else ""


def _median(row: Row) -> str:
    return "" if pd.isna(row["e2e_s_p50"]) else f"{seconds_text(row['e2e_s_p50'])} median"


def stack_cells(*parts: str, by: str = BREAK) -> str:
    """Puts what is not blank below each other."""
    return by.join(part for part in parts if part)


def csv_text(rows: pd.DataFrame) -> str:
    """Renders rows as CSV: every figure in its own column, to six digits."""
    rows = rows.drop(columns="recipe", errors="ignore")
    words = [name for name in rows.columns if not is_numeric_dtype(rows[name])]
    texts = [name for name in words if rows[name].map(lambda cell: isinstance(cell, str)).any()]
    safe = rows.assign(**{name: rows[name].map(csv_cell) for name in texts})
    return str(safe.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _with(write: Callable[[Any], str], value: Any) -> str:
    return "" if pd.isna(value) else write(value)


def _bounds(low: Any, high: Any, *, signed: bool = False) -> str:
    return "" if pd.isna(low) or pd.isna(high) else interval_text(low, high, signed=signed)


def _seeds(row: Row) -> str:
    return f"{row['trainings']} trainings" if row["trainings"] > 1 else ""


def _fewer(row: Row, most: int) -> str:
    """Says the number of questions of a row that was asked fewer, whose gain is over the receiver on those."""
    return f"n = {row['n']}" if row["n"] < most else ""


def _strict(row: Row) -> str:
    return "" if pd.isna(row["accuracy_strict"]) else f"strict {percent_text(row['accuracy_strict'])}"


def _counts(row: Row, runs: Mapping[str, str]) -> str:
    counts = [f"{row[name]} {short}" for name, short in (("errors", "err."), ("invalid", "inv.")) if _some(row[name])]
    return stack_cells(_with(str, row["n"]), *counts, runs.get(row["run_id"], ""))


def _some(count: Any) -> bool:
    return not pd.isna(count) and count > 0


def _verdict(row: Row) -> str:
    detectable = _with(percent_text, row["minimum_detectable"])
    left_out = f"{row['left_out']} left out" if row["left_out"] else ""
    p = _with(p_text, row["p_holm"])
    return stack_cells(
        str(row["verdict"]).removesuffix(" at this n"),
        f"p {p}".replace("<", "&lt;") if p else "",
        f"±{detectable}" if detectable else "",
        f"n {row['n']}",
        left_out,
    )


def _write(row: TrainingsRow) -> Callable[[float], str]:
    return percent_text if row.quantity.base is None else points_text


def _mean(row: TrainingsRow) -> str:
    interval, signed = row.found.interval, row.quantity.base is not None
    bounds = interval_text(interval.low, interval.high, signed=signed) if interval else ""
    left_out = f"{row.left_out} left out" if row.left_out else ""
    p = f"p {p_text(row.p_holm)}".replace("<", "&lt;") if row.p_holm is not None else ""
    return stack_cells(_write(row)(row.found.mean), bounds, p, row.verdict, f"n {row.found.n}", left_out)


def _each(row: TrainingsRow) -> str:
    unpaired = f"{' against '.join(map(str, row.found.trainings))}, no pairs"
    return BREAK.join(map(_write(row), row.found.each)) or unpaired
