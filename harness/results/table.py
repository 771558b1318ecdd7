"""The results as they stand on the terminal: per task a table of scores and one of differences, 120 columns wide.

Blank stays blank; every colour repeats what a word says already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from harness.records.schema import ResultRow
from harness.results.effects import Effect
from harness.results.wording import (
    arm_text,
    bytes_text,
    interval_text,
    p_text,
    percent_text,
    points_text,
    seconds_text,
)

WIDTH = 120


class Column(NamedTuple):
    """A heading and the width that keeps the tables of several tasks in line."""

    heading: str
    width: int
    right: bool = True


_SCORES = (
    Column("channel", 16, right=False),
    Column("accuracy", 8),
    Column("95% interval", 12),
    Column("n", 4),
    Column("err", 3),
    Column("inv", 3),
    Column("TTFT p50", 8),
    Column("p90", 7),
    Column("e2e p50", 7),
    Column("p90", 7),
    Column("payload", 7),
)
_DIFFERENCES = (
    Column("channel", 8, right=False),
    Column("comparison", 14, right=False),
    Column("points", 6),
    Column("95% interval", 14),
    Column("p (Holm)", 8),
    Column("detectable", 10),
    Column("pairs", 5),
    Column("left out", 8),
    Column("verdict", 22, right=False),
)


def render_table(
    rows: Sequence[ResultRow], effects: Sequence[Effect] = (), width: int = WIDTH, *, color: bool = False
) -> str:
    """Renders the results and, where there are effects, the differences below them.

    Args:
        rows: What `summarise` gives; `headline` keeps it short.
        effects: What `effects` gives.
        width: Columns of the terminal.
        color: Writes ANSI colours.
    """
    console = Console(width=width, force_terminal=color, color_system="standard" if color else None, highlight=False)
    with console.capture() as capture:
        for block in _blocks(rows, effects):
            console.print(block)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _blocks(rows: Sequence[ResultRow], effects: Sequence[Effect]) -> Iterator[RenderableType]:
    for task in dict.fromkeys([*(row.task for row in rows), *(effect.task for effect in effects)]):
        yield Text(f"\n{task}", style="bold")
        scores = [row for row in rows if row.task == task]
        if scores:
            yield _table(_SCORES, (_score_cells(row) for row in scores))
        differences = [effect for effect in effects if effect.task == task]
        if differences:
            yield Text()
            yield _table(_DIFFERENCES, (_difference_cells(effect) for effect in differences))


def _score_cells(row: ResultRow) -> list[Text]:
    cells = (
        arm_text(row.channel, row.control),
        percent_text(row.accuracy),
        interval_text(row.accuracy_low, row.accuracy_high),
        str(row.n),
        str(row.errors),
        str(row.invalid),
        seconds_text(row.ttft_s_p50),
        seconds_text(row.ttft_s_p90),
        seconds_text(row.e2e_s_p50),
        seconds_text(row.e2e_s_p90),
        bytes_text(row.payload_bytes_mean),
    )
    return [Text(cell, style="dim" if row.control else "") for cell in cells]


def _difference_cells(effect: Effect) -> list[Text]:
    detectable = percent_text(effect.minimum_detectable)
    cells = (
        effect.channel,
        effect.title,
        points_text(effect.difference),
        interval_text(effect.low, effect.high, signed=True),
        p_text(effect.p_holm),
        f"±{detectable}" if detectable else "",
        str(effect.n),
        str(effect.left_out),
    )
    style = {"higher": "green", "lower": "red"}.get(effect.verdict, "dim")
    return [*(Text(cell) for cell in cells), Text(effect.verdict, style=style)]


def _table(columns: Sequence[Column], rows: Iterable[list[Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading, width, right in columns:
        table.add_column(heading, min_width=width, justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*row)
    return table
