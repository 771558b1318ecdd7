"""The report's main figures as files for papers: PNG at 200 dots an inch and SVG, the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records import LoadedRun
from harness.records.files import explaining, file_name
from harness.report.data import RunNumbers, run_numbers
from harness.report.drawing import WIDE, Figure, canvas, save_svg
from harness.report.figures import task_figures
from harness.report.subjects import SubjectGains

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
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return [path for stem, (numbers, task) in stems.items() for path in _task(numbers, task, folder / stem)]


def _task(numbers: RunNumbers, task: str, stem: Path) -> list[Path]:
    rows = [row for row in numbers.rows if row.task == task]
    effects = [effect for effect in numbers.effects if effect.task == task]
    return [path for figure in task_figures(rows, effects, SubjectGains({}, 0)) for path in _saved(stem, figure)]


def _saved(stem: Path, figure: Figure) -> list[Path]:
    """Draws one figure and saves it in every form."""
    drawn = canvas(figure, WIDE)
    paths = [stem.with_name(f"{stem.name}-{figure.name}.{form}") for form in _SAVING]
    for path, options in zip(paths, _SAVING.values(), strict=True):
        save_svg(drawn, path, **options)
    return paths
