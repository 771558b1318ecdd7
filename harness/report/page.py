"""One self-contained HTML page a report: no network, no build step, readable years from now.

Data travels as JSON in which nothing can end a script element; templates escape by default; a content policy
forbids every request. Texts are shortened, longest first, where the page would pass its budget.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.errors import UserError
from harness.records import LoadedRun
from harness.records.files import write_atomic
from harness.records.secret import scrub
from harness.report.data import page_data, run_numbers
from harness.results import wording

BUDGET_BYTES = 14_000_000
SCRIPTS = ("dom.js", "charts.js", "plots.js", "tables.js", "browser.js", "main.js")
_LIMITS_CHARS = (4000, 1500, 600, 300, 150, 80)
_SAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_FILTERS = {
    "percent": wording.percent_text,
    "points": wording.points_text,
    "seconds": wording.seconds_text,
    "size": wording.bytes_text,
    "p": wording.p_text,
}


def write_html(runs: Sequence[LoadedRun], path: Path) -> Path:
    """Writes the report of one or more runs as one page.

    Args:
        runs: At least one, each with samples.
        path: The file to write; replaced in one step.

    Raises:
        UserError: if no run has a sample, or the path cannot be written.
    """
    kept = [run for run in runs if run.samples]
    if not kept:
        raise UserError("No run has a sample to report on; name a run folder that answered at least one question.")
    write_atomic(path, scrub(html(page_data([run_numbers(run) for run in kept]))))
    return path


def html(data: dict[str, Any]) -> str:
    """Renders the page from what `page_data` gives."""
    content, cut_at_chars = fitted(data)
    templates = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(_FILTERS)
    return templates.get_template("page.html").render(
        runs=data["runs"],
        data=Markup(content),  # noqa: S704 - embedded() leaves no character that HTML reads
        style=Markup(_source(templates, "style.css")),  # noqa: S704 - our own file
        script=Markup("\n".join(_source(templates, name) for name in SCRIPTS)),  # noqa: S704 - our own files
        cut_at_chars=cut_at_chars,
    )


def embedded(data: Any) -> str:
    """Writes data as JSON that is inert inside a script element.

    Raises:
        ValueError: if a number is not finite.
    """
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_SAFE)


def fitted(data: dict[str, Any], budget_bytes: int = BUDGET_BYTES) -> tuple[str, int | None]:
    """Returns the embedded data within a budget, and the length at which texts were cut, None where none was."""
    content = embedded(data)
    for limit in _LIMITS_CHARS:
        if len(content.encode()) <= budget_bytes:
            return content, None
        shortened = {**data, "texts": [_shortened(text, limit) for text in data["texts"]]}
        content = embedded(shortened)
        if len(content.encode()) <= budget_bytes:
            return content, limit
    return content, _LIMITS_CHARS[-1]


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _source(templates: Environment, name: str) -> str:
    if templates.loader is None:
        raise LookupError(name)
    return templates.loader.get_source(templates, name)[0]
