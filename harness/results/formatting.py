"""How numbers and names are written in tables, and text made inert for Markdown and CSV.

A number is written in the same way on the terminal, on the boards and on the page; an unknown one stays blank. Text
from models, datasets and users is made inert before it enters Markdown or CSV.
"""

from __future__ import annotations

import html
import re

BLANK = ""

_STEPS = ("B", "kB", "MB", "GB", "TB")


def percent_text(fraction: float | None) -> str:
    """Writes a share as percent with one decimal, ``0.4292 -> '42.9'``."""
    return BLANK if fraction is None else f"{_tenths(fraction):.1f}"


def points_text(fraction: float | None) -> str:
    """Writes a difference of shares as signed points, ``0.074 -> '+7.4'``."""
    return BLANK if fraction is None else f"{_tenths(fraction):+.1f}"


def interval_text(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Writes an interval of shares in percent or points, ``'[41.6, 44.2]'``."""
    if low is None or high is None:
        return BLANK
    write = points_text if signed else percent_text
    return f"[{write(low)}, {write(high)}]"


def seconds_text(seconds: float | None) -> str:
    """Writes a duration with its unit and three significant digits, ``0.0312 -> '31.2 ms'``."""
    if seconds is None:
        return BLANK
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"
    value, unit = (1e3 * seconds, "ms") if seconds >= 0.9995e-3 else (1e6 * seconds, "µs")
    return f"{value:.3g} {unit}"


def bytes_text(count: float | None) -> str:
    """Writes a size in decimal units with three significant digits, ``2048000 -> '2.05 MB'``."""
    if count is None:
        return BLANK
    step = 0
    while count >= 999.5 and step < len(_STEPS) - 1:
        count, step = count / 1000, step + 1
    return f"{count:.3g} {_STEPS[step]}"


def p_text(p: float | None) -> str:
    """Writes a p-value, ``0.0000321 -> '<0.001'``."""
    if p is None:
        return BLANK
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def detectable_text(level: float) -> str:
    """Says what the column "detectable" means, with the level that Holm leaves to one of a family of tests."""
    tests = round(0.05 / level)
    return f"detectable: found with 80% power by an exact test at level {level:.2g} (0.05 over {tests} tests)"


def ratio_text(ratio: float | None) -> str:
    """Writes a speed-up, ``3.8123 -> '3.81x'``."""
    return BLANK if ratio is None else f"{ratio:.3g}x"


def arm_text(channel: str, control: str) -> str:
    """Names an arm in one word, ``('c2c', 'mean') -> 'c2c/mean'``."""
    return f"{channel}/{control}" if control else channel


def _tenths(fraction: float) -> float:
    """Rounds to tenths of a point; a little less than nothing is nothing, without a minus."""
    return round(100 * fraction, 1) + 0.0


_MARKDOWN = re.compile(r"([\\`*\[\]~#!])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")

# Everything that XML 1.0 forbids, even escaped, and what else could steer a terminal.
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """Escapes text for one cell of a Markdown table: no tag, link, emphasis, line or column break survives."""
    flat = _CONTROL.sub(" ", text).strip()
    return html.escape(_MARKDOWN.sub(r"\\\g<0>", flat), quote=False).replace("|", "&#124;")


def csv_cell(text: str) -> str:
    """Escapes text that a spreadsheet would take for a formula, and drops control characters."""
    flat = _CONTROL.sub(" ", text).strip()
    return f"'{flat}" if flat.startswith(_FORMULA) else flat


def printable(text: str) -> str:
    """Puts a replacement character in place of whatever could steer a terminal or break XML; lines stay."""
    return _UNPRINTABLE.sub("\ufffd", text)
