"""The results as tables on the terminal, at most 80 columns wide.

Per task they show a ranking and one sentence, or everything. Blank cells stay blank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from textwrap import fill
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness.results.comparisons import KINDS, Effect
from harness.results.formatting import (
    arm_text,
    bytes_text,
    detectable_text,
    interval_text,
    p_text,
    percent_text,
    points_text,
    ratio_text,
    seconds_text,
)
from harness.results.frame import not_ranked, part_column, ranking, verdict_sentences

WIDTH = 80

_EDGES, _BETWEEN = 4, 3

_NARROWEST, _WIDEST_FIRST, _NARROW_FIRST = 8, 24, 11


def github_table(table: pd.DataFrame, left: Collection[str] = ()) -> str:
    """Renders a frame of texts as a Markdown table; `left` names the columns of words, figures stand right."""
    align = ["left" if name in left else "right" for name in table.columns]
    rows = table.to_numpy().tolist()
    return tabulate(rows, list(table.columns), "github", disable_numparse=True, colalign=align if rows else None)


def terminal_table(table: pd.DataFrame, left: Collection[str] = ()) -> str:
    """Renders a frame of texts as `github_table` does, without the room that it keeps around headings."""
    widths = {name: _width(table, name) for name in table.columns}

    def line(cells: Sequence[str]) -> str:
        both = zip(widths.items(), cells, strict=True)
        return " | ".join(cell.ljust(width) if name in left else cell.rjust(width) for (name, width), cell in both)

    rule = "|".join("-" * (width + 2) for width in widths.values())
    rows = [line(row) for row in table.to_numpy().tolist()]
    return "\n".join([f"| {line(list(widths))} |", f"|{rule}|", *(f"| {row} |" for row in rows)])


def fold_table(table: pd.DataFrame, left: Sequence[str], width: int = WIDTH) -> str:
    """Renders a frame for a terminal: columns that do not fit follow in tables below, each with the first column.

    Args:
        table: of texts; a first cell that is too long is broken.
        left: columns of words.
        width: columns of the terminal.
    """
    return "\n\n".join(_narrow(table[names], left, width) for names in _packed(table, width))


def _packed(table: pd.DataFrame, width: int) -> Iterator[list[str]]:
    first, *others = table.columns
    start = _EDGES + min(_width(table, first), _WIDEST_FIRST)
    whole = sum(_BETWEEN + _width(table, name) for name in others)
    if _EDGES + min(_width(table, first), _NARROW_FIRST) + whole <= width:
        yield [first, *others]
        return
    names, used = [first], start
    for name in others:
        needed = _BETWEEN + _width(table, name)
        if len(names) > 1 and used + needed > width:
            yield names
            names, used = [first], start
        names.append(name)
        used += needed
    yield names


def _width(table: pd.DataFrame, name: str) -> int:
    return max([len(name), *(len(cell) for cell in table[name])])


def _narrow(table: pd.DataFrame, left: Sequence[str], width: int) -> str:
    first, *others = table.columns
    room = width - _EDGES - sum(_BETWEEN + _width(table, name) for name in others)
    cells = [name_pieces(cell, max(room, _NARROWEST)) for cell in table[first]]
    rows: list[dict[str, str]] = []
    for pieces, (_, row) in zip(cells, table.iterrows(), strict=True):
        rows.append({**{str(name): str(cell) for name, cell in row.items()}, first: pieces[0]})
        rows += [{**dict.fromkeys(others, ""), first: piece} for piece in pieces[1:]]
    return terminal_table(pd.DataFrame(rows, columns=list(table.columns)), left)


def name_pieces(text: str, room: int) -> list[str]:
    """Breaks a text behind a joint of a name where there is one, so that no word of it is cut without need."""
    pieces = []
    while len(text) > room:
        ends = (max(text.rfind(joint, room // 6, room) for joint in joints) + 1 for joints in (":/ ", "=_"))
        cut = next(filter(None, ends), room)
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


_WORDS = ("channel", "verdict", "comparison", "choices")

_LEGEND = {
    "accuracy": "accuracy in % with its 95% interval",
    "gain": "gain: points over the receiver",
    "TTFT": "TTFT: median time to first token",
    "payload": "payload: what crosses, a question",
}


def legend(columns: Collection[str]) -> str:
    """Explains the columns of a ranking that are there."""
    return "; ".join(said for name, said in _LEGEND.items() if name in columns)


def render_ranking(results: pd.DataFrame, width: int = WIDTH) -> str:
    """Renders for each headline task of a run the ranking and the verdict on its best channel.

    Args:
        results: what `harness.results.frame` gives for one run.
        width: columns of the terminal.
    """
    shown = results[results["headline"].astype(bool)]
    by_task = {str(task): (rows, ranking_cells(ranking(rows))) for task, rows in shown.groupby("task", sort=False)}
    blocks = [_ranked(task, *rows, width) for task, rows in by_task.items()]
    columns = {str(name) for _, cells in by_task.values() for name in cells.columns}
    return "\n\n".join([*blocks, fill(legend(columns), width)] if blocks else [])


def render_all(results: pd.DataFrame, width: int = WIDTH) -> str:
    """Renders for each headline task of a run every row, every difference and every verdict.

    Args:
        results: what `harness.results.frame` gives for one run.
        width: columns of the terminal.
    """
    shown = results[results["headline"].astype(bool)]
    return "\n\n".join(
        block for task, rows in shown.groupby("task", sort=False) for block in _everything(str(task), rows, width)
    )


def render_comparison(found: Sequence[Effect], width: int = WIDTH) -> str:
    """Renders the difference of two arms, a line a task, as `harness.results.compare` gives it."""
    rows = pd.DataFrame(
        {
            "task": [one.task for one in found],
            "difference": [f"{arm_text(*one.arm)} − {arm_text(*one.base)}" for one in found],
            "points": [points_text(one.difference) for one in found],
            "95% interval": [interval_text(one.low, one.high, signed=True) for one in found],
            "p": [p_text(one.p) for one in found],
            "pairs": [str(one.n) for one in found],
            "left out": [str(one.left_out) for one in found],
            "verdict": [one.verdict for one in found],
        }
    )
    return fold_table(rows, ("task", *_WORDS, "difference"), width)


def ranking_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Lays out a ranking: a column a heading, every cell text."""
    return text_cells(
        {
            "channel": rows["arm"],
            "accuracy": _with_interval(rows, "accuracy"),
            "gain": rows["to_receiver"].map(_or_blank(points_text)),
            "verdict": rows["verdict"],
            "TTFT": rows["ttft_s_p50"].map(_or_blank(seconds_text)),
            "payload": rows["payload_bytes"].map(_or_blank(bytes_text)),
        }
    )


def score_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Lays out every figure of single arms."""
    times = {"TTFT p50": "ttft_s_p50", "TTFT p90": "ttft_s_p90", "e2e p50": "e2e_s_p50", "e2e p90": "e2e_s_p90"}
    return text_cells(
        {
            "channel": rows["arm"],
            "accuracy": _with_interval(rows, "accuracy"),
            "strict": rows["accuracy_strict"].map(_or_blank(percent_text)),
            **{name: rows[name].map(_or_blank(str)) for name in ("n", "errors", "invalid")},
            **{name: rows[column].map(_or_blank(seconds_text)) for name, column in times.items()},
            "speed-up": rows["speed_up"].map(_or_blank(ratio_text)),
            "timed": rows["speed_up_n"].map(_or_blank(str)),
            "lost": rows["speed_up_lost"].map(lambda count: "" if pd.isna(count) or not count else str(count)),
            "payload": rows["payload_bytes"].map(_or_blank(bytes_text)),
            "choices": rows["variant"],
        }
    )


def pivot_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Pivots the comparisons of a frame: a row a comparison and arm.

    Returns:
        Columns arm, comparison, and those of one comparison in `harness.results.frame`, without its name before them.
    """
    parts = ("difference", "low", "high", "p_holm", "minimum_detectable", "level", "n", "left_out", "verdict")
    pieces = []
    for kind in KINDS:
        names = {part_column(kind.name, part): part for part in parts}
        piece = rows.loc[rows[part_column(kind.name, "verdict")] != "", ["run_id", "arm", *names]]
        pieces.append(piece.rename(columns=names).assign(comparison=kind.title, place=piece.index))
    pivoted: pd.DataFrame = pd.concat(pieces).sort_values("place", kind="stable").drop(columns="place")
    return pivoted


def difference_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Lays out what `pivot_differences` gives."""
    detectable = rows["minimum_detectable"].map(_or_blank(percent_text))
    return text_cells(
        {
            "channel": rows["arm"],
            "comparison": rows["comparison"],
            "points": rows["difference"].map(_or_blank(points_text)),
            "95% interval": _interval(rows["low"], rows["high"], signed=True),
            "p (Holm)": rows["p_holm"].map(_or_blank(p_text)),
            "verdict": rows["verdict"],
            "detectable": detectable.map(lambda text: f"±{text}" if text else ""),
            "pairs": rows["n"].map(str),
            "left out": rows["left_out"].map(str),
        }
    )


def text_cells(columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Builds a frame of texts and drops columns without any."""
    table = pd.DataFrame({name: column.astype(object) for name, column in columns.items()})
    filled: pd.DataFrame = table[[name for name in table.columns if name == "channel" or (table[name] != "").any()]]
    return filled


def _ranked(task: str, rows: pd.DataFrame, cells: pd.DataFrame, width: int) -> str:
    parts = [fill(f"{task}{_questions(ranking(rows))}", width), fold_table(cells, _WORDS, width)]
    hidden = ", ".join(not_ranked(rows))
    said = [f"Not shown: {hidden}; --all prints every row."] if hidden else []
    return "\n".join([*parts, *(fill(sentence, width) for sentence in [*said, *verdict_sentences(rows)])])


def _questions(rows: pd.DataFrame) -> str:
    """How many questions the rows are about: those of a run that has not finished are about different ones."""
    if rows.empty:
        return ""
    fewest, most = rows["n"].min(), rows["n"].max()
    return f": {most} questions" if fewest == most else f": {fewest} to {most} questions"


def _everything(task: str, rows: pd.DataFrame, width: int) -> Iterator[str]:
    yield f"{task}\n{fold_table(score_cells(rows), _WORDS, width)}"
    compared = pivot_differences(rows)
    if not compared.empty:
        yield fold_table(difference_cells(compared), _WORDS, width)
        yield from (fill(detectable_text(level), width) for level in compared["level"].dropna().unique())
    yield from (fill(sentence, width) for sentence in rows["verdict_text"] if sentence)


def _with_interval(rows: pd.DataFrame, name: str) -> pd.Series:
    values = rows[name].map(_or_blank(percent_text))
    return (values + " " + _interval(rows[f"{name}_low"], rows[f"{name}_high"])).str.strip()


def _interval(low: pd.Series, high: pd.Series, *, signed: bool = False) -> pd.Series:
    both = zip(low, high, strict=True)
    return pd.Series(
        ["" if pd.isna(one) or pd.isna(other) else interval_text(one, other, signed=signed) for one, other in both],
        index=low.index,
        dtype=object,
    )


def _or_blank(write: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "" if pd.isna(value) else write(value)
