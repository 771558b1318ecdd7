"""Frames as text: one way to lay out a table, on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pandas as pd
from tabulate import tabulate

WIDTH = 80
_EDGES, _BETWEEN = 4, 3
_HEADING_PADDING = 2  # tabulate keeps it around every heading
_NARROWEST, _WIDEST_FIRST = 8, 24


def github(table: pd.DataFrame, left: Collection[str] = ()) -> str:
    """Renders a frame of texts as a Markdown table; `left` names the columns of words, figures stand right."""
    align = ["left" if name in left else "right" for name in table.columns]
    rows = table.to_numpy().tolist()
    return tabulate(rows, list(table.columns), "github", disable_numparse=True, colalign=align if rows else None)


def folded(table: pd.DataFrame, left: Sequence[str], width: int = WIDTH) -> str:
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
    return max([len(name) + _HEADING_PADDING, *(len(cell) for cell in table[name])])


def _narrow(table: pd.DataFrame, left: Sequence[str], width: int) -> str:
    first, *others = table.columns
    room = width - _EDGES - sum(_BETWEEN + _width(table, name) for name in others)
    cells = [_pieces(cell, max(room, _NARROWEST)) for cell in table[first]]
    rows: list[dict[str, str]] = []
    for pieces, (_, row) in zip(cells, table.iterrows(), strict=True):
        rows.append({**{str(name): str(cell) for name, cell in row.items()}, first: pieces[0]})
        rows += [{**dict.fromkeys(others, ""), first: piece} for piece in pieces[1:]]
    return github(pd.DataFrame(rows, columns=list(table.columns)), left)


def _pieces(text: str, room: int) -> list[str]:
    return [text[start : start + room] for start in range(0, len(text), room)] or [""]
