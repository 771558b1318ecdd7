"""The bench of training as Markdown: one table of steps, one of their floors by part."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.bench.results import Bench, in_cell
from harness.bench.table import about, number, seconds, table
from harness.bench.train_results import TrainCell, TrainResult

_STEPS = (
    "arm",
    "median s",
    "p90 s",
    "floor s",
    "x floor",
    "x plain",
    "CPU s",
    "response tokens/s",
    "prompt + response tokens/s",
    "held MB",
    "peak above MB",
)


def train_markdown(bench: Bench[TrainResult]) -> str:
    """The whole page."""
    parts = ["# Bench of training", about(bench)]
    for cell, results in in_cell(bench.results).items():
        parts += [f"## {train_heading(cell)}", table(_STEPS, map(_row, results)), _floors(results)]
    return "\n\n".join(parts) + "\n"


def train_heading(cell: TrainCell) -> str:
    """A cell in words."""
    step = f"{cell.micro_batches} x {cell.rows} rows" if cell.micro_batches > 1 else f"{cell.rows} rows"
    return f"{cell.dtype}, a step of {step} of {cell.prompt_tokens} + {cell.response_tokens} tokens"


def _row(r: TrainResult) -> list[str]:
    return [
        r.arm,
        *seconds(r.total),
        number(r.times_plain),
        number(median(r.cpu_s) if r.cpu_s else None, 4),
        number(r.response_tokens_per_s, 1),
        number(r.all_tokens_per_s, 1),
        number(r.held_bytes / 1e6, 0),
        number(None if r.peak_bytes is None else r.peak_bytes / 1e6, 0),
    ]


def _floors(results: Sequence[TrainResult]) -> str:
    parts = list(dict.fromkeys(part for r in results for part in r.floors_s))
    rows = [[part.replace("_", " "), *(number(r.floors_s.get(part), 4) for r in results)] for part in parts]
    return table(("floor s of", *(r.arm for r in results)), rows)
