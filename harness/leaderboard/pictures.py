"""A task's picture: every pair's rows as dots with their intervals, once for light and once for dark pages.

The data drawn is stored inside the picture. That is what is compared with the records, because another version of
the drawing library writes other bytes for the same data.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from html import unescape
from typing import Any

import pandas as pd

from harness.channels.registry import OTHER_COLOR
from harness.leaderboard.pairs import Pair
from harness.results.grouping import entry_of
from harness.results.terminal_table import name_pieces

THEMES = {"light": ("#1f2328", "#d1d9e0"), "dark": ("#f0f6fc", "#3d444d")}
_DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)
_WIDTH_INCHES, _LINE_INCHES, _FRAME_INCHES = 7.6, 0.26, 0.9
_LABEL_FONT, _LABEL_CHARS = 8, 36
_CHARACTER_INCHES, _LABEL_LINE_INCHES, _BESIDE_LABEL_INCHES = 0.07, 0.14, 0.15  # of a label in its font
_AROUND = 1.5  # points of the axis below 0 and above 100, for half a mark


def picture_data(pairs: Sequence[Pair]) -> str:
    """Returns what a picture of these pairs draws, as JSON."""
    return json.dumps([_panel(pair) for pair in pairs], ensure_ascii=False, sort_keys=True)


def drawn_data(svg: str) -> str | None:
    """Returns the data inside a picture; None where there is none."""
    found = _DESCRIPTION.search(svg)
    return unescape(found[1]) if found else None


def draw(data: str, theme: str) -> str:
    """Draws what `picture_data` gives as SVG.

    Args:
        data: JSON.
        theme: one of `THEMES`.
    """
    svg = _drawn(data)
    for usual, color in zip(THEMES["light"], THEMES[theme], strict=True):
        svg = svg.replace(usual, color)
    return svg


@lru_cache(maxsize=8)
def _drawn(data: str) -> str:
    """Draws for a light page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = json.loads(data)
    ink, lines = THEMES["light"]
    heights = [len(panel["rows"]) * _row_inches(panel) + _FRAME_INCHES for panel in panels]
    labels = _labels_inches(panels) / _WIDTH_INCHES
    style = {"text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": lines}
    with mpl.rc_context({**style, "font.size": 9, "svg.hashsalt": "c2c-harness", "svg.fonttype": "none"}):
        figure = Figure(figsize=(_WIDTH_INCHES, sum(heights)))
        bottom = sum(heights)
        for height, panel in zip(heights, panels, strict=True):
            bottom -= height
            inner = (bottom + 0.55 * _FRAME_INCHES) / sum(heights), (height - _FRAME_INCHES) / sum(heights)
            _draw_panel(figure.add_axes((labels, inner[0], 0.97 - labels, inner[1])), panel, lines)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Description": data})
    return re.sub(r"[ \t]+$", "", stream.getvalue(), flags=re.MULTILINE)


def _panel(pair: Pair) -> dict[str, Any]:
    rows = pair.rows.sort_values("accuracy", ascending=False, kind="stable")
    return {"title": f"{pair.receiver} ← {pair.sharers}", "rows": [_mark(row) for _, row in rows.iterrows()]}


def _mark(row: Any) -> dict[str, Any]:
    entry = entry_of(row["channel"])
    percents = [_percent(row[name]) for name in ("accuracy", "accuracy_low", "accuracy_high")]
    written = entry is not None and entry.message == "text" and entry.name == row["channel"]
    label = f"{row['arm']} ({row['variant']})" if row["variant"] and written else row["arm"]
    return {
        "label": label,
        "percent": percents[0],
        "low": percents[1],
        "high": percents[2],
        "color": entry.color if entry else OTHER_COLOR,
        "control": bool(row["control"]),
    }


def _percent(fraction: float) -> float | None:
    return None if pd.isna(fraction) else round(100 * float(fraction), 1)


def _lines(label: str) -> list[str]:
    """A label as lines that fit beside the axis."""
    return [piece.strip() for piece in name_pieces(label, _LABEL_CHARS)]


def _row_inches(panel: dict[str, Any]) -> float:
    """Height of each row of a panel, enough for its label of most lines."""
    most = max(len(_lines(row["label"])) for row in panel["rows"])
    return max(_LINE_INCHES, _LABEL_LINE_INCHES * (most + 0.25))


def _labels_inches(panels: Sequence[dict[str, Any]]) -> float:
    """Width that the longest line of all labels takes, in any usual font."""
    longest = max(len(line) for panel in panels for row in panel["rows"] for line in _lines(row["label"]))
    return _CHARACTER_INCHES * longest + _BESIDE_LABEL_INCHES


def _draw_panel(axes: Any, panel: dict[str, Any], lines: str) -> None:
    rows = panel["rows"]
    for place, row in enumerate(rows):
        if row["low"] is not None and row["high"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=row["color"], linewidth=1.6)
        face = "none" if row["control"] else row["color"]
        axes.plot(row["percent"], place, "o", color=row["color"], markerfacecolor=face, markersize=6)
    axes.set_yticks(range(len(rows)), ["\n".join(_lines(row["label"])) for row in rows], fontsize=_LABEL_FONT)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-_AROUND, 100 + _AROUND)
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_xlabel("accuracy, % (95% interval; hollow: controls)")
    axes.grid(axis="x", color=lines, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
