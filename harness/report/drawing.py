"""Drawing of the figures: marks, axes, and where their labels go.

Files, page and docs are drawn in the same way, as matplotlib's SVG with its ink replaced by the page's own colours. A
figure has a wide form and a narrow one for phones, where only estimates are written beside the marks. The names of
points are placed so that none covers another name or another point.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape
from typing import TYPE_CHECKING, Any, Literal

from harness.channels.registry import OTHER_COLOR
from harness.results.grouping import entry_of
from harness.results.terminal_table import name_pieces

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Side = Literal["left", "right"]

Offset = tuple[tuple[float, float], Side]

_CHAR_POINTS, _LINE_POINTS, _MARK_POINTS = 4.9, 10.0, 5.0

_Box = tuple[float, float, float, float]


def place_labels(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Offset]:
    """Chooses for each point the nearest place of its name that is free.

    Args:
        axes: with its scales and limits set.
        points: in the data's units.
        names: what is written.

    Returns:
        For each point the offset of its name in typographic points, and the side of the name that is tied to it.
    """
    axes.get_xlim(), axes.get_ylim()  # limits are settled on reading
    scale = 72 / axes.figure.get_dpi()
    centers = [tuple(scale * value for value in axes.transData.transform(point)) for point in points]
    taken: list[_Box] = [(x - _MARK_POINTS, y - _MARK_POINTS, x + _MARK_POINTS, y + _MARK_POINTS) for x, y in centers]
    taken += _outside(*(scale * value for value in axes.bbox.extents))
    chosen: list[Offset] = []
    for (x, y), name in zip(centers, names, strict=True):
        options = [((offset, side), _box(x, y, offset, side, name)) for offset, side in _candidates()]
        best, box = min(options, key=lambda option: sum(_overlap(option[1], other) for other in taken))
        taken.append(box)
        chosen.append(best)
    return chosen


def _candidates() -> Iterator[Offset]:
    """Offsets from near to far; of equally free ones the first is taken."""
    for rise in (0.0, 10.0, -10.0, 20.0, -20.0, 32.0, -32.0):
        yield (9.0, rise), "left"
        yield (-9.0, rise), "right"


def _box(x: float, y: float, offset: tuple[float, float], side: Side, name: str) -> _Box:
    width = _CHAR_POINTS * len(name)
    left = x + offset[0] - (0 if side == "left" else width)
    middle = y + offset[1]
    return left, middle - _LINE_POINTS / 2, left + width, middle + _LINE_POINTS / 2


def _outside(left: float, bottom: float, right: float, top: float) -> list[_Box]:
    """Boxes around the axes, where a name would cover ticks or be cut off."""
    far = 1e4
    return [
        (-far, -far, left, far),
        (right, -far, far, far),
        (left, -far, right, bottom),
        (left, top, right, far),
    ]


def _overlap(one: _Box, other: _Box) -> float:
    """Returns the area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)


INK, SOFT, GRID, BAND, PAPER = "#1b1d21", "#4d525b", "#e2e2dd", "#ecece6", "#fefefe"

_THEMED = {INK: "var(--ink)", SOFT: "var(--soft)", GRID: "var(--line)", BAND: "var(--band)", PAPER: "var(--card)"}

_STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.hashsalt": "c2c-harness",
    "svg.fonttype": "none",
}

_TIP = "tip:"

_GIVEN_IDS = re.compile(r' id="(?!tip:)(?:[a-z][a-zA-Z0-9.]*_\d+|[A-Z]\w*_\d+)"')

_LINE_INCHES, _FOOT_INCHES, _HEAD_INCHES, _LEGEND_INCHES = 0.3, 0.5, 0.12, 0.2

_PLAIN_MARGINS_INCHES = (0.65, 0.25)


@dataclass(frozen=True)
class Look:
    """How much room a figure has.

    Attributes:
        width_inches: of the whole figure.
        names_inches: for the names at its left.
        values_inches: for what is written at its right.
        name_chars: longest line of a name that is written whole.
        narrow: only estimates are written, without intervals.
    """

    width_inches: float
    names_inches: float
    values_inches: float
    name_chars: int
    narrow: bool = False

    def name(self, text: str) -> str:
        """Shortens a name to the room, and keeps a dollar sign from starting a formula."""
        short = text if len(text) <= self.name_chars else f"{text[: self.name_chars - 1]}…"
        return short.replace("$", r"\$")

    def folded_name(self, text: str) -> str:
        """Folds a name to two lines, of which the second is shortened."""
        first = name_pieces(text, self.name_chars)[0]
        return "\n".join(self.name(line.strip()) for line in (first, text[len(first) :]) if line)


WIDE = Look(7.6, 1.9, 1.75, 24)

NARROW = Look(3.5, 1.4, 0.5, 17, narrow=True)


@dataclass(frozen=True)
class Figure:
    """Something to draw.

    Attributes:
        name: in files' names and anchors.
        title: heading.
        lead: how it is read, one or two sentences.
        lines: height in lines of text.
        draw: draws it into axes.
        legend_lines: room for a legend above.
        names: whether lines have names at their left and values at their right.
    """

    name: str
    title: str
    lead: str
    lines: int
    draw: Callable[[Axes, Look], None]
    legend_lines: int = 0
    names: bool = True


def canvas(figure: Figure, look: Look) -> Canvas:
    """Draws a figure; its margins are fixed, so that figures of one look align."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    left, right = (look.names_inches, look.values_inches) if figure.names else _PLAIN_MARGINS_INCHES
    inner = look.width_inches - left - right, figure.lines * _LINE_INCHES
    height = inner[1] + _FOOT_INCHES + _HEAD_INCHES + figure.legend_lines * _LEGEND_INCHES
    with mpl.rc_context(_STYLE):
        drawn = Canvas(figsize=(look.width_inches, height))
        place = (left / look.width_inches, _FOOT_INCHES / height)
        axes = drawn.add_axes((*place, inner[0] / look.width_inches, inner[1] / height))
        axes.patch.set_alpha(0)
        figure.draw(axes, look)
    return drawn


def save_svg(drawn: Canvas, target: Any, **options: Any) -> None:
    """Saves a canvas under the style that it was drawn with: text stays text, the same bytes for the same data."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        drawn.savefig(target, **options)


def inline_svg(figure: Figure, look: Look, label: str, prefix: str) -> str:
    """Returns a figure as an SVG element for a page, coloured by the page's variables.

    Args:
        figure: what is drawn.
        look: its room.
        label: what it says to a screen reader.
        prefix: keeps its identifiers apart from those of other figures of the page.
    """
    stream = io.StringIO()
    save_svg(canvas(figure, look), stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opened(label), svg, count=1)
    svg = re.sub(r"font: (?:\w+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"<[^>]+>", lambda found: _element(found[0], prefix), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _element(tag: str, prefix: str) -> str:
    """Rewrites one element: identifiers of its own, fewer digits, the page's colours, an explanation."""
    tag = _GIVEN_IDS.sub("", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)(?!tip:)', rf"\g<1>{prefix}", tag)
    tag = re.sub(r' (?:d|x|y|width|height|transform|style)="[^"]*"', _shortened, tag)
    return re.sub(rf'\bid="{_TIP}([^"]*)"', _explained, tag)


def _shortened(attribute: re.Match[str]) -> str:
    text = re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _THEMED.get(found[0], f"var({color_variable(found[0])})"), text)


def color_variable(color: str) -> str:
    """Names the CSS variable of a channel's or stage's colour."""
    return f"--c-{color.lstrip('#').lower()}"


def channel_color(channel: str) -> str:
    """Returns the colour of a channel, with its options, known here or not."""
    entry = entry_of(channel)
    return entry.color if entry else OTHER_COLOR


def add_tip(artist: Artist, text: str) -> None:
    """Lets a mark explain itself to pointer, keyboard and screen reader."""
    artist.set_gid(_TIP + text)


def draw_interval(
    axes: Axes, place: float, value: float, bounds: Sequence[float], color: str, *, filled: bool, text: str = ""
) -> None:
    """Draws an estimate with its interval on one line; hollow where it is not filled."""
    axes.plot(list(bounds), (place, place), color=color, linewidth=1.6, solid_capstyle="round", zorder=2)
    face = color if filled else PAPER
    (mark,) = axes.plot([value], [place], "o", color=color, markerfacecolor=face, markersize=6.5, zorder=3)
    add_tip(mark, text)


def named_lines(axes: Axes, look: Look, names: Sequence[str], unit: str) -> None:
    """Writes a name at the left of each line, the first on top, and the unit below."""
    size = 8 if look.narrow else 9
    axes.set_yticks(range(len(names)), [look.folded_name(name) for name in names], linespacing=0.95, fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit, fontsize=8)


def value_at(axes: Axes, place: float, text: str, color: str = INK) -> None:
    """Writes text at the right of a line."""
    where = axes.get_yaxis_transform()
    axes.text(1.03, place, text, transform=where, va="center", ha="left", fontsize=8.5, color=color, clip_on=False)


def _opened(label: str) -> Callable[[re.Match[str]], str]:
    return lambda found: (
        f'<svg viewBox="{found[1]}" role="group" aria-label="{escape(label)}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )


def _explained(found: re.Match[str]) -> str:
    text = escape(unescape(found[1]), quote=True).replace("\n", "&#10;")
    said = text.replace("&#10;", ", ")
    return f'class="mark-tip" tabindex="0" role="img" aria-label="{said}" data-tip="{text}"'
