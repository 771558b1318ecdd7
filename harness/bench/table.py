"""The bench as Markdown: one table of totals, one of stages.

Guarantees that a figure stands beside its floor and that what was not measured shows as a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from harness.bench.results import Bench, Cell, Result, Series, in_cell

_TOTALS = (
    "arm",
    "median s",
    "p90 s",
    "floor s",
    "x floor",
    "x transformers",
    "TTFT s",
    "questions/s",
    "tokens/s",
    "peak MB",
    "cache MB",
    "payload B",
)
_STAGES = ("arm", "stage", "median s", "p90 s", "floor s", "x floor")


def markdown(bench: Bench[Result]) -> str:
    """The whole page."""
    parts = ["# Bench", about(bench)]
    for cell, results in in_cell(bench.results).items():
        parts += [
            f"## {heading(cell)}",
            table(_TOTALS, map(_total_row, results)),
            table(_STAGES, _stage_rows(results)),
        ]
    return "\n\n".join(parts) + "\n"


def heading(cell: Cell) -> str:
    """A cell in words."""
    task = f"{cell.new_tokens} new tokens" if cell.new_tokens else "scoring options"
    return f"{cell.dtype}, prompt {cell.prompt_tokens}, batch {cell.batch_size}, {task}"


def about(bench: Bench[Any]) -> str:
    """Settings and machine, a line each."""
    lines = [f"- {name}: {value}" for name, value in bench.about.items()]
    for dtype, speed in bench.speeds.items():
        rate, read, row = (speed[name] / 1e9 for name in ("flops_per_s", "bytes_per_s", "row_bytes_per_s"))
        said = f"{rate:.0f} GFLOP/s in products, {read:.1f} GB/s read, {row:.1f} GB/s through a product of one row"
        lines.append(f"- this machine, {dtype}: {said}")
    return "\n".join(lines)


def _total_row(r: Result) -> list[str]:
    return [
        r.arm,
        *seconds(r.total),
        number(r.times_baseline),
        number(r.ttft.median_s if r.ttft else None, 3),
        number(r.questions_per_s, 3),
        number(r.tokens_per_s, 1),
        number(None if r.peak_bytes is None else r.peak_bytes / 1e6, 0),
        number(r.cache_bytes / 1e6 if r.cache_bytes else None, 0),
        str(r.payload_bytes),
    ]


def _stage_rows(results: Iterable[Result]) -> list[list[str]]:
    return [[r.arm, stage, *seconds(series)] for r in results for stage, series in r.stages.items()]


def seconds(series: Series) -> list[str]:
    """Cells of a series: median, p90, floor, ratio."""
    return [
        number(series.median_s, 4),
        number(series.p90_s, 4),
        number(series.floor_s, 4),
        number(series.ratio),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are text already."""
    return str(tabulate(list(rows), headers, tablefmt="pipe", disable_numparse=True))
