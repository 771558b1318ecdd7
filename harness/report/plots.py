"""The report's main figures as files for papers: PNG at 200 dots an inch and SVG, the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.channels.registry import CHANNELS, OTHER_COLOR
from harness.channels.spec import channel_of
from harness.errors import UserError
from harness.records import LoadedRun
from harness.records.files import explained
from harness.records.naming import file_name
from harness.records.schema import ResultRow
from harness.report.data import RunNumbers, run_numbers
from harness.results import Effect
from harness.results.wording import arm_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = {
    "sharer_prefill": "#c9a227",
    "sharer_decode": "#e0c878",
    "message_transfer": "#8f5fb8",
    "fusion": "#1763b5",
    "receiver_prefill": "#4b5563",
    "receiver_decode": "#9aa3b0",
}
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e2dd",
    "axes.axisbelow": True,
    "svg.hashsalt": "c2c-harness",
    "svg.fonttype": "none",
}
_SAVING: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}


def write_plots(runs: Sequence[LoadedRun], folder: Path) -> list[Path]:
    """Draws accuracy, effects, cost and stages of every run and headline task.

    Args:
        runs: Those without samples are passed over.
        folder: Where the files go, made if missing; names are `<run>-<task>-<plot>.<png|svg>`.

    Returns:
        The files written.

    Raises:
        UserError: if the folder cannot be written, or the plots of two runs would have the same names.
    """
    found = [run_numbers(run) for run in runs if run.samples]
    stems: dict[str, tuple[RunNumbers, str]] = {}
    for numbers in found:
        for table in numbers.tables:
            run_id = numbers.run.record.run_id
            stem = f"{file_name(run_id)}-{file_name(table.name)}"
            if stem in stems:
                raise UserError(f"Two of these runs have plots named {stem!r} (run {run_id!r}); plot them apart.")
            stems[stem] = numbers, table.name
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return [path for stem, (numbers, task) in stems.items() for path in _task(numbers, task, folder / stem)]


def _task(numbers: RunNumbers, task: str, stem: Path) -> list[Path]:
    rows = [row for row in numbers.rows if row.task == task]
    effects = [effect for effect in numbers.effects if effect.task == task and effect.difference is not None]
    timed = [row for row in rows if row.e2e_s_p50 is not None]
    stages = [row for row in timed if row.stages_s_p50 and not row.control]
    drawn: list[Path] = []
    drawn += _saved(stem, "accuracy", len(rows), lambda axes: _accuracy(axes, rows))
    drawn += _saved(stem, "effects", len(effects), lambda axes: _effects(axes, effects))
    drawn += _saved(stem, "cost", 8 if timed else 0, lambda axes: _cost(axes, timed))
    drawn += _saved(stem, "stages", len(stages), lambda axes: _stages(axes, stages))
    return drawn


def _saved(stem: Path, name: str, lines: int, draw: Callable[[Axes], None]) -> list[Path]:
    """Draws one figure, its height by its lines, and saves it in every form; nothing where there are no lines."""
    if not lines:
        return []
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.2, 0.9 + 0.32 * lines), layout="constrained")
        draw(figure.subplots())
        paths = [stem.with_name(f"{stem.name}-{name}.{form}") for form in _SAVING]
        for path, options in zip(paths, _SAVING.values(), strict=True):
            figure.savefig(path, **options)
    return paths


def _accuracy(axes: Axes, rows: Sequence[ResultRow]) -> None:
    for y, row in enumerate(rows):
        bounds = (100 * row.accuracy_low, 100 * row.accuracy_high)
        _whisker(axes, y, 100 * row.accuracy, bounds, _color(row.channel), filled=not row.control)
    _named_lines(axes, [arm_text(row.channel, row.control) for row in rows], "accuracy, % (95% interval)")


def _effects(axes: Axes, effects: Sequence[Effect]) -> None:
    for y, effect in enumerate(effects):
        low, high, value = effect.low or 0.0, effect.high or 0.0, effect.difference or 0.0
        band = 100 * (effect.minimum_detectable or 0.0)
        axes.barh(y, 2 * band, left=-band, height=0.7, color="#ecece6", zorder=1)
        sure = effect.verdict in ("higher", "lower")
        _whisker(axes, y, 100 * value, (100 * low, 100 * high), _color(effect.channel), filled=sure)
    axes.axvline(0, color="#6a6f78", linewidth=0.8)
    _named_lines(axes, [f"{effect.channel} {effect.title}" for effect in effects], "difference, points (95% interval)")


def _cost(axes: Axes, rows: Sequence[ResultRow]) -> None:
    for row in rows:
        seconds, color = row.e2e_s_p50 or 0.0, _color(row.channel)
        bounds = [[100 * (row.accuracy - row.accuracy_low)], [100 * (row.accuracy_high - row.accuracy)]]
        face = "white" if row.control else color
        axes.errorbar([seconds], [100 * row.accuracy], yerr=bounds, fmt="o", color=color, markerfacecolor=face)
        if not row.control:
            axes.annotate(row.channel, (seconds, 100 * row.accuracy), xytext=(7, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.12)
    axes.set_xlabel("median end to end, s")
    axes.set_ylabel("accuracy, %")


def _stages(axes: Axes, rows: Sequence[ResultRow]) -> None:
    names = dict.fromkeys([*STAGES, *(stage for row in rows for stage in row.stages_s_p50)])
    start = [0.0] * len(rows)
    for name in names:
        seconds = [row.stages_s_p50.get(name, 0.0) for row in rows]
        if any(seconds):
            axes.barh(range(len(rows)), seconds, left=start, height=0.6, label=name.replace("_", " "),
                      color=STAGES.get(name, OTHER_COLOR))  # fmt: skip
        start = [before + added for before, added in zip(start, seconds, strict=True)]
    _named_lines(axes, [row.channel for row in rows], "median by stage, s")
    axes.legend(fontsize=7, frameon=False)


def _whisker(axes: Axes, y: int, value: float, bounds: tuple[float, float], color: str, *, filled: bool) -> None:
    axes.plot(bounds, (y, y), color=color, linewidth=1.6, zorder=2)
    axes.plot([value], [y], "o", color=color, markerfacecolor=color if filled else "white", zorder=3)


def _named_lines(axes: Axes, names: Sequence[str], unit: str) -> None:
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit)


def _color(channel: str) -> str:
    name = channel_of(channel)
    return CHANNELS.get(name).color if name in CHANNELS.names() else OTHER_COLOR
