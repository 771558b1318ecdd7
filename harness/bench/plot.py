"""Latency against prompt length and against batch size, with the floors as dotted lines.

Draws one row of panels a dtype. Each point is a median over the other settings held at their first value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.bench.results import Result, arms_of

_AXES = {"prompt_tokens": "prompt tokens", "batch_size": "batch size (questions)"}


def plot(results: Sequence[Result], path: Path) -> None:
    """Writes the figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    decoded = [r for r in results if r.cell.new_tokens] or list(results)
    dtypes = list(dict.fromkeys(r.cell.dtype for r in decoded))
    figure = Figure(figsize=(11, 4.2 * len(dtypes)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(dtypes), len(_AXES), squeeze=False)
    for row, dtype in zip(panels, dtypes, strict=True):
        for panel, axis in zip(row, _AXES, strict=True):
            _draw(panel, [r for r in decoded if r.cell.dtype == dtype], axis, dtype)
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _draw(panel: Any, results: Sequence[Result], axis: str, dtype: str) -> None:
    shown = along(results, axis)
    for number, arm in enumerate(arms_of(shown)):
        points = sorted((getattr(r.cell, axis), r.total.median_s, r.total.floor_s) for r in shown if r.arm == arm)
        x, median, floor = zip(*points, strict=True)
        panel.plot(x, median, "o-", color=f"C{number}", label=arm)
        panel.plot(x, floor, ":", color=f"C{number}", label=f"{arm}, floor")
    panel.set(xlabel=_AXES[axis], ylabel="seconds a batch (median)", title=_title(shown, axis, dtype), ylim=(0, None))
    panel.grid(alpha=0.3)


def along(results: Sequence[Result], axis: str) -> list[Result]:
    """The results in which everything but `axis` has the value of the first result."""
    fixed = {name: getattr(results[0].cell, name) for name in (*_AXES, "new_tokens") if name != axis}
    return [r for r in results if all(getattr(r.cell, name) == value for name, value in fixed.items())]


def _title(results: Sequence[Result], axis: str, dtype: str) -> str:
    cell = results[0].cell
    held = f"batch {cell.batch_size}" if axis == "prompt_tokens" else f"prompt {cell.prompt_tokens}"
    return f"{dtype}, {held}, {cell.new_tokens} new tokens"
