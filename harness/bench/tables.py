"""The bench as Markdown tables and as plots.

Answers have one table of totals and one of stages; training has one of steps and one of their floors by part.
Guarantees that a figure has its floor beside it and that what was not measured shows as a dash.

Plots show seconds against prompt length and against batch size, with the floors as dotted lines: one row of panels a
dtype, each point a median over the other settings held at their first value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

from harness.bench.results import Bench, Cell, Finding, Found, Result, Series, TrainCell, TrainResult, arms_of, in_cell

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
    parts = ["# Bench", settings_lines(bench)]
    for cell, results in in_cell(bench.results).items():
        parts += [
            f"## {heading_of_axis(cell)}",
            table(_TOTALS, map(_total_row, results)),
            table(_STAGES, _stage_rows(results)),
        ]
    return "\n\n".join(parts) + "\n"


def heading_of_axis(cell: Cell) -> str:
    """A cell in words."""
    task = f"{cell.new_tokens} new tokens" if cell.new_tokens else "scoring options"
    return f"{cell.dtype}, prompt {cell.prompt_tokens}, batch {cell.batch_size}, {task}"


def settings_lines(bench: Bench[Any]) -> str:
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
        *seconds_cells(r.total),
        number_or_dash(r.times_baseline),
        number_or_dash(r.ttft.median_s if r.ttft else None, 3),
        number_or_dash(r.questions_per_s, 3),
        number_or_dash(r.tokens_per_s, 1),
        number_or_dash(None if r.peak_bytes is None else r.peak_bytes / 1e6, 0),
        number_or_dash(r.cache_bytes / 1e6 if r.cache_bytes else None, 0),
        str(r.payload_bytes),
    ]


def _stage_rows(results: Iterable[Result]) -> list[list[str]]:
    return [[r.arm, stage, *seconds_cells(series)] for r in results for stage, series in r.stages.items()]


def seconds_cells(series: Series) -> list[str]:
    """Cells of a series: median, p90, floor, ratio."""
    return [
        number_or_dash(series.median_s, 4),
        number_or_dash(series.p90_s, 4),
        number_or_dash(series.floor_s, 4),
        number_or_dash(series.ratio),
    ]


def number_or_dash(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are text already."""
    return str(tabulate(list(rows), headers, tablefmt="pipe", disable_numparse=True))


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
    parts = ["# Bench of training", settings_lines(bench)]
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
        *seconds_cells(r.total),
        number_or_dash(r.times_plain),
        number_or_dash(median(r.cpu_s) if r.cpu_s else None, 4),
        number_or_dash(r.response_tokens_per_s, 1),
        number_or_dash(r.all_tokens_per_s, 1),
        number_or_dash(r.held_bytes / 1e6, 0),
        number_or_dash(None if r.peak_bytes is None else r.peak_bytes / 1e6, 0),
    ]


def _floors(results: Sequence[TrainResult]) -> str:
    parts = list(dict.fromkeys(part for r in results for part in r.floors_s))
    rows = [[part.replace("_", " "), *(number_or_dash(r.floors_s.get(part), 4) for r in results)] for part in parts]
    return table(("floor s of", *(r.arm for r in results)), rows)


@dataclass(frozen=True)
class Axes:
    """What is drawn.

    Attributes:
        across: settings that have a panel, with its label.
        up: label of the seconds.
        title: of a panel from its first cell, without the setting along the axis.
    """

    across: Mapping[str, str]
    up: str
    title: Callable[[Any, str], str]


def plot(results: Sequence[Result], path: Path) -> None:
    """Writes the figure of a bench of answers as PNG."""
    decoded = [r for r in results if r.cell.new_tokens] or list(results)
    across = {"prompt_tokens": "prompt tokens", "batch_size": "batch size (questions)"}
    _figure(decoded, path, Axes(across, "seconds a batch (median)", _title))


def plot_training(results: Sequence[TrainResult], path: Path) -> None:
    """Writes the figure of a bench of training as PNG."""
    across = {"prompt_tokens": "prompt tokens", "rows": "rows of a micro batch"}
    _figure(results, path, Axes(across, "seconds an optimizer step (median)", _train_title))


def _figure(results: Sequence[Finding], path: Path, axes: Axes) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dtypes = list(dict.fromkeys(r.cell.dtype for r in results))
    figure = Figure(figsize=(11, 4.2 * len(dtypes)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(dtypes), len(axes.across), squeeze=False)
    for row, dtype in zip(panels, dtypes, strict=True):
        for panel, axis in zip(row, axes.across, strict=True):
            _draw(panel, [r for r in results if r.cell.dtype == dtype], axis, axes)
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _draw(panel: Any, results: Sequence[Finding], axis: str, axes: Axes) -> None:
    shown = results_along(results, axis)
    for number, arm in enumerate(arms_of(shown)):
        points = sorted((getattr(r.cell, axis), r.total.median_s, r.total.floor_s) for r in shown if r.arm == arm)
        x, median, floor = zip(*points, strict=True)
        panel.plot(x, median, "o-", color=f"C{number}", label=arm)
        panel.plot(x, floor, ":", color=f"C{number}", label=f"{arm}, floor")
    title = axes.title(shown[0].cell, axis)
    panel.set(xlabel=axes.across[axis], ylabel=axes.up, title=title, ylim=(0, None))
    panel.grid(alpha=0.3)


def results_along(results: Sequence[Found], axis: str) -> list[Found]:
    """The results in which everything but `axis` has the value of the first result."""

    def fixed(result: Found) -> dict[str, Any]:
        return {name: value for name, value in asdict(result.cell).items() if name != axis}

    return [r for r in results if fixed(r) == fixed(results[0])]


def _title(cell: Cell, axis: str) -> str:
    held = f"batch {cell.batch_size}" if axis == "prompt_tokens" else f"prompt {cell.prompt_tokens}"
    return f"{cell.dtype}, {held}, {cell.new_tokens} new tokens"


def _train_title(cell: TrainCell, axis: str) -> str:
    held = f"{cell.rows} rows" if axis == "prompt_tokens" else f"prompt {cell.prompt_tokens}"
    return f"{cell.dtype}, {held}, response {cell.response_tokens}"
