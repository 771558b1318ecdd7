"""What a message costs: accuracy against bytes and seconds, one row and one point an arm of a run.

Run ``python -m harness.relay_build.costs RUN --picture FILE.svg``; the table goes to standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.records.journal import LoadedRun, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"t2t": "#b4531a", "c2c": "#1763b5"}
_CHANCE_PERCENT = 25
_NEAR, _NEAR_PERCENT = 0.05, 3.0


@dataclass(frozen=True)
class Cost:
    """One arm of one task.

    Attributes:
        task: that was asked.
        arm: channel with its options.
        percent: accuracy.
        n: questions.
        payload_bytes: mean size of a message.
        e2e_s: median seconds of an answer, message included.
        timed: answers that were timed.
    """

    task: str
    arm: str
    percent: float
    n: int
    payload_bytes: float
    e2e_s: float
    timed: int


def costs_by_task(run: LoadedRun) -> list[Cost]:
    """Every arm of a run as sent, by task."""
    arms = dict.fromkeys((s.task, s.channel) for s in run.samples if not s.control)
    return [_cost(run, task, channel) for task, channel in arms]


def _cost(run: LoadedRun, task: str, channel: str) -> Cost:
    samples = [s for s in run.samples if (s.task, s.channel, s.control) == (task, channel, "")]
    seconds = [t.e2e_s for t in run.timings if (t.task, t.channel, t.control) == (task, channel, "")]
    return Cost(
        task,
        channel,
        100 * float(np.mean([bool(s.correct) for s in samples])),
        len(samples),
        float(np.mean([s.payload_bytes for s in samples])),
        float(np.median(seconds)) if seconds else float("nan"),
        len(seconds),
    )


def markdown(rows: Sequence[Cost]) -> str:
    """A Markdown table with the tasks side by side."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_place = {(row.task, row.arm): row for row in rows}
    lines = [
        "| | " + " | ".join(f"{task}: % right | bytes | ms" for task in tasks) + " |",
        "|---" * (1 + 3 * len(tasks)) + "|",
    ]
    for arm in dict.fromkeys(row.arm for row in rows):
        cells = [_cells(by_place[task, arm]) for task in tasks]
        lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(row: Cost) -> str:
    return f"{row.percent:.1f} | {row.payload_bytes:,.0f} | {1000 * row.e2e_s:.1f}"


def draw(rows: Sequence[Cost], path: Path) -> None:
    """Draws accuracy against bytes and against seconds, a row of axes a task, and writes the picture."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(9, 3.2 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    for task, (left, right) in zip(tasks, axes, strict=True):
        sent = [row for row in rows if row.task == task and row.payload_bytes]
        _points(left, sent, [row.payload_bytes for row in sent], "bytes of a message")
        _points(right, sent, [1000 * row.e2e_s for row in sent], "ms for an answer, median")
        left.set_xscale("log")
        right.set_xlim(left=0)
        left.set_title(task, loc="left", fontsize=10)
    figure.savefig(path, metadata={"Date": None})


def _points(axis: Axes, rows: Sequence[Cost], where: Sequence[float], label: str) -> None:
    for row, x in zip(rows, where, strict=True):
        axis.scatter(x, row.percent, color=_COLORS.get(row.arm.partition(":")[0], "#5b6472"), s=24)
    for (x, percent), names in _labels(rows, where).items():
        axis.annotate(", ".join(names), (x, percent), textcoords="offset points", xytext=(4, -10), fontsize=7)
    axis.axhline(_CHANCE_PERCENT, color="#b9bec7", linewidth=1)
    axis.set_ylim(0, 105)
    axis.set_xlabel(label)
    axis.set_ylabel("% right")


def _labels(rows: Sequence[Cost], where: Sequence[float]) -> dict[tuple[float, float], list[str]]:
    """What to write at which point; points that lie on one another share one label."""
    found: dict[tuple[float, float], list[str]] = {}
    for row, x in zip(rows, where, strict=True):
        name, _, option = row.arm.partition(":")
        near = (at for at in found if abs(at[0] - x) < _NEAR * max(where) and abs(at[1] - row.percent) < _NEAR_PERCENT)
        found.setdefault(next(near, (x, row.percent)), []).append(option.rpartition("=")[2] or name)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints and draws what the messages of a run cost.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path, required=True)
    given = parser.parse_args()
    found = costs_by_task(load_run(given.run))
    print(markdown(found))
    draw(found, given.picture)
