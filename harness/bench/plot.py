"""Seconds against prompt length and against batch size, with the floors as dotted lines.

Draws one row of panels a dtype. Each point is a median over the other settings held at their first value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.bench.results import Cell, Finding, Found, Result, arms_of
from harness.bench.train_results import TrainCell, TrainResult


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
    shown = along(results, axis)
    for number, arm in enumerate(arms_of(shown)):
        points = sorted((getattr(r.cell, axis), r.total.median_s, r.total.floor_s) for r in shown if r.arm == arm)
        x, median, floor = zip(*points, strict=True)
        panel.plot(x, median, "o-", color=f"C{number}", label=arm)
        panel.plot(x, floor, ":", color=f"C{number}", label=f"{arm}, floor")
    title = axes.title(shown[0].cell, axis)
    panel.set(xlabel=axes.across[axis], ylabel=axes.up, title=title, ylim=(0, None))
    panel.grid(alpha=0.3)


def along(results: Sequence[Found], axis: str) -> list[Found]:
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
