"""The figures of one task of a run: what they show and how they are read; drawn by `harness.report.drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.channels.registry import OTHER_COLOR
from harness.records.schema import ResultRow
from harness.report.drawing import (
    BAND,
    INK,
    PAPER,
    SOFT,
    Figure,
    Look,
    add_tip,
    channel_color,
    draw_interval,
    named_lines,
    place_labels,
    value_at,
)
from harness.report.subjects import FEWEST_QUESTIONS, SubjectGains
from harness.results import Effect
from harness.results.formatting import arm_text, bytes_text, interval_text, percent_text, points_text, seconds_text

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
_SURE = ("higher", "lower")
_CONTROLS = " Hollow marks are controls: the message keeps its form and loses its content."
_FRONTIER = " The line joins the arms that none beats on both."


def task_figures(rows: Sequence[ResultRow], effects: Sequence[Effect], subjects: SubjectGains) -> list[Figure]:
    """Returns the figures of a task that have something to show.

    Args:
        rows: of the task, controls included.
        effects: differences of the task.
        subjects: differences to the receiver by subject.
    """
    compared = [effect for effect in effects if effect.difference is not None]
    timed = [row for row in rows if row.e2e_s_p50 is not None]
    staged = [row for row in timed if row.stages_s_p50 and not row.control]
    figures = [
        Figure(
            "accuracy",
            "Accuracy",
            "Right answers over all questions asked, errors included, with 95% intervals."
            + (_CONTROLS if any(row.control for row in rows) else ""),
            len(rows),
            partial(_accuracy, rows=rows),
        ),
        Figure(
            "effects",
            "What the message does",
            "Paired differences on the same questions. Hollow: the run cannot tell. Differences inside the grey "
            "band are too small for this run: only larger ones are found with 80% power.",
            len(compared),
            partial(_effects, effects=compared),
        ),
        Figure(
            "cost",
            "Accuracy against time",
            "Up and to the left is better." + (_FRONTIER if len(timed) > 1 else ""),
            9 if timed else 0,
            partial(_cost, rows=timed),
            names=False,
        ),
        Figure(
            "stages",
            "Where the time goes",
            "Medians by stage; at the end the median of the whole. Questions answered alone, after warm-up.",
            len(staged),
            partial(_stages, rows=staged),
            legend_lines=3,
        ),
        *(
            Figure(
                f"subjects-{channel}",
                f"Gains by subject: {channel}",
                f"Difference to the receiver alone, of subjects with at least {FEWEST_QUESTIONS} questions: read the "
                f"intervals first. {subjects.left_out_text}".strip(),
                len(gains),
                partial(_subjects, gains=gains, color=channel_color(channel)),
            )
            for channel, gains in subjects.channels.items()
        ),
    ]
    return [figure for figure in figures if figure.lines]


def gate_figure(layers: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Returns the gates of a fuser by receiver layer, or None where the run recorded none.

    Args:
        layers: of one sharer's fuser: `layer`, and the logits `gate_k` and `gate_v`.
    """
    if not layers:
        return None
    opened = {kind: sum(is_open(layer.get(f"gate_{kind}")) for layer in layers) for kind in ("k", "v")}
    return Figure(
        "gates",
        "Gates of the fuser",
        f"Logits by receiver layer, open above zero: {opened['k']} of {len(layers)} key gates and {opened['v']} of "
        f"{len(layers)} value gates are open.",
        2,
        partial(_gates, layers=layers),
    )


def is_open(logit: float | bool | None) -> bool:
    """Whether a gate is open; a record of an earlier form holds whether, in place of the logit."""
    return logit is not None and logit > 0


def _accuracy(axes: Axes, look: Look, rows: Sequence[ResultRow]) -> None:
    for place, row in enumerate(rows):
        value, bounds = percent_text(row.accuracy), interval_text(row.accuracy_low, row.accuracy_high)
        said = f"{_arm(row)}: {value}% {bounds}\nn {row.n}, errors {row.errors}, invalid {row.invalid}"
        ends = (100 * row.accuracy_low, 100 * row.accuracy_high)
        draw_interval(
            axes, place, 100 * row.accuracy, ends, channel_color(row.channel), filled=not row.control, text=said
        )
        value_at(axes, place, value if look.narrow else f"{value} {bounds}", SOFT if row.control else INK)
    named_lines(axes, look, [_arm(row) for row in rows], "accuracy, %")


def _effects(axes: Axes, look: Look, effects: Sequence[Effect]) -> None:
    for place, effect in enumerate(effects):
        low, high, value = effect.low or 0.0, effect.high or 0.0, effect.difference or 0.0
        band = 100 * (effect.minimum_detectable or 0.0)
        axes.barh(place, 2 * band, left=-band, height=0.7, color=BAND, zorder=1)
        written = points_text(value)
        said = (
            f"{effect.channel} {effect.title}: {written} points {interval_text(low, high, signed=True)}\n"
            f"{effect.verdict}; {effect.n} pairs, {effect.left_out} left out"
        )
        sure = effect.verdict in _SURE
        color = channel_color(effect.channel)
        draw_interval(axes, place, 100 * value, (100 * low, 100 * high), color, filled=sure, text=said)
        value_at(
            axes,
            place,
            written if look.narrow else f"{written} {effect.verdict.removesuffix(' at this n')}",
            INK if sure else SOFT,
        )
    axes.axvline(0, color=SOFT, linewidth=0.8)
    named_lines(axes, look, [f"{effect.channel} {effect.title}" for effect in effects], "difference, points")


def _cost(axes: Axes, look: Look, rows: Sequence[ResultRow]) -> None:
    for row in rows:
        seconds, color = row.e2e_s_p50 or 0.0, channel_color(row.channel)
        ends = [100 * row.accuracy_low, 100 * row.accuracy_high]
        axes.plot([seconds] * 2, ends, color=color, linewidth=1.3, alpha=0.4 if row.control else 0.8, zorder=2)
        face = PAPER if row.control else color
        size = 5 if row.control else 7.5
        (mark,) = axes.plot(
            [seconds], [100 * row.accuracy], "o", color=color, markerfacecolor=face, markersize=size, zorder=3
        )
        paid = "" if row.payload_bytes_mean is None else f"\npayload {bytes_text(row.payload_bytes_mean)}"
        add_tip(mark, f"{_arm(row)}: {percent_text(row.accuracy)}%\n{seconds_text(seconds)} median{paid}")
    best = pareto_frontier([row for row in rows if not row.control])
    xs, ys = [row.e2e_s_p50 or 0.0 for row in best], [100 * row.accuracy for row in best]
    axes.plot(xs, ys, "--", color=SOFT, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.08)
    log_ticks(axes, [row.e2e_s_p50 or 0.0 for row in rows])
    named = [row for row in rows if not row.control]
    points = [(row.e2e_s_p50 or 0.0, 100 * row.accuracy) for row in named]
    for row, (where, side) in zip(
        named, place_labels(axes, points, [look.name(row.channel) for row in named]), strict=True
    ):
        at = (row.e2e_s_p50 or 0.0, 100 * row.accuracy)
        axes.annotate(look.name(row.channel), at, xytext=where, textcoords="offset points", ha=side, fontsize=8.5,
                      va="center", annotation_clip=False)  # fmt: skip
    axes.set_xlabel("median end to end", fontsize=8)
    axes.set_ylabel("accuracy, %", fontsize=8)


def pareto_frontier(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Returns the rows that no other beats on both accuracy and median end-to-end seconds, fastest first."""
    best: list[ResultRow] = []
    for row in sorted(rows, key=lambda row: (row.e2e_s_p50 or 0.0, -row.accuracy)):
        if not best or row.accuracy > best[-1].accuracy:
            best.append(row)
    return best


_STEPS = ((1, 2, 5), tuple(range(1, 10)), (1, 1.2, 1.4, 1.6, 1.8, *range(2, 10)))


def log_ticks(axes: Axes, seconds: Sequence[float]) -> None:
    """Writes the coarsest round times of which two or more stand on the axis."""
    low, high = min(seconds) / 1.3, max(seconds) * 1.3
    steps = _STEPS if high / low < 100 else ((1,), *_STEPS)
    found = [_round_times(low, high, some) for some in steps]
    ticks = next((times for times in found if len(times) > 1), found[-1])
    if high / low < 2:
        axes.set_xlim(low, high)
    axes.set_xticks(ticks, [seconds_text(tick) for tick in ticks])
    axes.minorticks_off()


def _round_times(low: float, high: float, steps: Sequence[float]) -> list[float]:
    return [step * 10.0**power for power in range(-7, 6) for step in steps if low <= step * 10.0**power <= high]


def _stages(axes: Axes, look: Look, rows: Sequence[ResultRow]) -> None:
    names = dict.fromkeys([*STAGES, *(stage for row in rows for stage in row.stages_s_p50)])
    for place, row in enumerate(rows):
        start = 0.0
        for name in names:
            seconds = row.stages_s_p50.get(name, 0.0)
            if not seconds:
                continue
            (bar,) = axes.barh(
                place, 1e3 * seconds, left=1e3 * start, height=0.6, color=STAGES.get(name, OTHER_COLOR), linewidth=0
            )
            add_tip(bar, f"{row.channel}, {name.replace('_', ' ')}: {seconds_text(seconds)} median")
            start += seconds
        value_at(axes, place, seconds_text(row.e2e_s_p50))
    used = [name for name in names if any(row.stages_s_p50.get(name) for row in rows)]
    for name in used:
        axes.barh(0, 0, color=STAGES.get(name, OTHER_COLOR), label=name.replace("_", " "))
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="upper left", ncol=2 if look.narrow else 3, fontsize=7.5,
                       frameon=False, borderaxespad=0.2, handlelength=1, columnspacing=1)  # fmt: skip
    named_lines(axes, look, [row.channel for row in rows], "median by stage, ms")


def _subjects(axes: Axes, look: Look, gains: Sequence[Mapping[str, Any]], color: str) -> None:
    for place, gain in enumerate(gains):
        low, high, value = gain["low"], gain["high"], gain["difference"]
        written = points_text(value)
        said = f"{gain['subject']}: {written} points {interval_text(low, high, signed=True)}\n{gain['n']} questions"
        sure = low > 0 or high < 0
        draw_interval(axes, place, 100 * value, (100 * low, 100 * high), color, filled=sure, text=said)
        value_at(axes, place, written if look.narrow else f"{written}  n {gain['n']}", INK if sure else SOFT)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    names = [str(gain["subject"]).replace("_", " ") for gain in gains]
    named_lines(axes, look, names, "difference to the receiver, points")


def _gates(axes: Axes, look: Look, layers: Sequence[Mapping[str, Any]]) -> None:
    largest = max(abs(layer.get(f"gate_{kind}") or 0.0) for layer in layers for kind in ("k", "v")) or 1.0
    written = len(layers) <= (8 if look.narrow else 14)
    for place, kind in enumerate(("k", "v")):
        for column, layer in enumerate(layers):
            logit = float(layer.get(f"gate_{kind}") or 0.0)
            shade = 0.15 + 0.75 * abs(logit) / largest if is_open(logit) else 0.02
            (cell,) = axes.barh(place, 0.92, left=column + 0.04, height=0.86, color=STAGES["fusion"], alpha=shade)
            state = "open" if is_open(logit) else "closed"
            add_tip(
                cell, f"layer {layer['layer']}, {'keys' if kind == 'k' else 'values'}: gate {state}\nlogit {logit:.3f}"
            )
            if written:
                axes.text(column + 0.5, place, f"{logit:.2f}", ha="center", va="center", fontsize=7.5)
    named_lines(axes, look, ["keys", "values"], "receiver layer")
    every = max(1, -(-len(layers) // (10 if look.narrow else 28)))
    shown = range(0, len(layers), every)
    axes.set_xticks([column + 0.5 for column in shown], [str(layers[column]["layer"]) for column in shown])
    axes.grid(visible=False)
    axes.set_xlim(0, len(layers))


def _arm(row: ResultRow) -> str:
    return arm_text(row.channel, row.control)
