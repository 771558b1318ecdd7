"""Where the names of points go, so that none covers another name or another point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Side = Literal["left", "right"]
Offset = tuple[tuple[float, float], Side]
_CHAR_POINTS, _LINE_POINTS, _MARK_POINTS = 4.9, 10.0, 5.0
_Box = tuple[float, float, float, float]


def placed(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Offset]:
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
