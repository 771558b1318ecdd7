"""Text from models, datasets and users made inert before it enters Markdown or CSV."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*\[\]~#!])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """Escapes text for one cell of a Markdown table: no tag, link, emphasis, line or column break survives."""
    flat = _CONTROL.sub(" ", text).strip()
    return html.escape(_MARKDOWN.sub(r"\\\g<0>", flat), quote=False).replace("|", "&#124;")


def csv_cell(text: str) -> str:
    """Escapes text that a spreadsheet would take for a formula, and drops control characters."""
    flat = _CONTROL.sub(" ", text).strip()
    return f"'{flat}" if flat.startswith(_FORMULA) else flat
