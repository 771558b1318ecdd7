"""A row's cells: short and escaped for Markdown, raw and one figure a column for CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields

from harness.leaderboard.escape import csv_cell, markdown
from harness.leaderboard.rows import REPORTED, BoardRow, Difference, Value
from harness.leaderboard.trainings import TrainingsRow
from harness.results import Effect, bytes_text, points_text, seconds_text
from harness.results.wording import arm_text, interval_text, p_text, percent_text, ratio_text

HEADINGS = (
    "pair",
    "channel",
    "accuracy %",
    "vs receiver",
    "vs T2T",
    "content effect",
    "TTFT p50 / p90",
    "end to end p50 / p90",
    "speed-up over T2T",
    "payload",
    "peak memory of the run",
    "n",
    "errors",
    "invalid",
    "from",
)
_LEFT_COLUMNS = 2


def board_table(rows: Iterable[BoardRow]) -> str:
    """Renders the rows of one task as a Markdown table."""
    return table(HEADINGS, [_cells(row) for row in rows], left={0, 1, len(HEADINGS) - 1})


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: set[int]) -> str:
    """Renders a Markdown table of cells that are escaped already; `left` names the columns of text."""
    rule = ["---" if index in left else "---:" for index in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def pair_text(row: BoardRow | TrainingsRow) -> str:
    """Names a pair, receiver first, escaped."""
    sharers = " + ".join(markdown(sharer) for sharer in row.sharers if sharer)
    return f"{markdown(row.receiver)} ← {sharers}" if sharers else markdown(row.receiver)


def source_text(row: BoardRow) -> str:
    """Says where a row came from: run, commit, machine; or that it was reported and not run again."""
    if row.kind == REPORTED:
        return f"**{REPORTED}**: {markdown(', '.join(part for part in (row.source, row.hardware) if part))}"
    commit = f"{row.commit[:12]}{' (modified)' if row.dirty else ''}"
    parts = (row.source, row.started_at[:10], commit, row.hardware, *(f"also run {run_id}" for run_id in row.also))
    return ", ".join(f"{markdown(part)}" for part in parts if part)


def effect_cells(run_id: str, effect: Effect) -> list[str]:
    """The cells of one paired difference."""
    detectable = percent_text(effect.minimum_detectable)
    return [
        markdown(run_id),
        markdown(effect.channel),
        markdown(f"{arm_text(*effect.arm)} − {arm_text(*effect.base)}"),
        effect.title,
        points_text(effect.difference),
        interval_text(effect.low, effect.high, signed=True),
        p_text(effect.p_holm).replace("<", "&lt;"),
        f"±{detectable}" if detectable else "",
        str(effect.n),
        str(effect.left_out),
        effect.verdict,
    ]


def trainings_cells(row: TrainingsRow) -> list[str]:
    """The cells of one quantity over several trainings."""
    signed = row.quantity.base is not None
    write, found = (points_text if signed else percent_text), row.found
    bounds = (found.interval.low, found.interval.high) if found.interval else (None, None)
    return [
        pair_text(row),
        markdown(row.quantity.text),
        row.quantity.title,
        write(found.mean),
        interval_text(*bounds, signed=signed),
        p_text(row.p_holm).replace("<", "&lt;"),
        row.verdict,
        ", ".join(map(write, found.each)) or f"{' against '.join(map(str, found.trainings))}, no pairs",
        str(found.n),
        str(row.left_out),
        markdown(", ".join(row.weights)),
    ]


def difference_text(difference: Difference) -> str:
    """Writes a difference in points with interval and verdict."""
    parts = (points_text(difference.value), interval_text(difference.low, difference.high, signed=True))
    return " ".join(part for part in (*parts, difference.verdict) if part)


def accuracy_text(value: Value) -> str:
    """Writes an accuracy in percent with its interval."""
    return f"{percent_text(value.value)} {interval_text(value.low, value.high)}".strip()


def end_to_end_text(row: BoardRow) -> str:
    """Writes median and p90, or a reported mean under its name."""
    return f"{seconds_text(row.e2e_s_mean)} (mean)" if row.e2e_s_mean else _two(row.e2e_s_p50, row.e2e_s_p90)


def speed_up_text(row: BoardRow) -> str:
    """Writes a speed-up with its interval where there is one, and over how many questions it is."""
    value, parts = row.speed_up, [ratio_text(row.speed_up.value)]
    if value.low is not None and value.high is not None:
        parts.append(f"[{value.low:.3g}, {value.high:.3g}]")
    if row.speed_up_n is not None:
        parts.append(f"(n = {row.speed_up_n}{f', {row.speed_up_lost} lost' if row.speed_up_lost else ''})")
    return " ".join(part for part in parts if part)


def _cells(row: BoardRow) -> list[str]:
    variant = f" ({markdown(row.variant)})" if row.variant else ""
    return [
        pair_text(row),
        f"{markdown(arm_text(row.channel, row.control))}{variant}",
        accuracy_text(row.accuracy),
        difference_text(row.to_receiver),
        difference_text(row.to_t2t),
        difference_text(row.content),
        _two(row.ttft_s_p50, row.ttft_s_p90),
        end_to_end_text(row),
        speed_up_text(row),
        bytes_text(row.payload_bytes),
        bytes_text(row.peak_memory_bytes),
        *("" if count is None else str(count) for count in (row.n, row.errors, row.invalid)),
        source_text(row),
    ]


def _two(median_s: float | None, p90_s: float | None) -> str:
    return " / ".join(text for text in (seconds_text(median_s), seconds_text(p90_s)) if text)


def csv_text(rows: Iterable[BoardRow]) -> str:
    """Renders rows as CSV: every figure in its own column, unrounded to six digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    shown = [field.name for field in fields(BoardRow) if field.name != "made_by"]
    writer.writerow([name for field in shown for name in _names(field)])
    for row in rows:
        writer.writerow([cell for field in shown for cell in _raw(getattr(row, field))])
    return stream.getvalue()


def _names(field: str) -> list[str]:
    if field in ("accuracy", "speed_up"):
        return [field, f"{field}_low", f"{field}_high"]
    if field in ("to_receiver", "to_t2t", "content"):
        return [field, *(f"{field}_{part}" for part in ("low", "high", "p_holm", "verdict"))]
    return [field]


def _raw(value: object) -> list[str]:
    if isinstance(value, (Value, Difference)):
        return [cell for part in value for cell in _raw(part)]
    if isinstance(value, tuple):
        return [csv_cell(" + ".join(value))]
    if isinstance(value, float):
        return [f"{value:.6g}"]
    return [csv_cell(value) if isinstance(value, str) else "" if value is None else str(value)]
