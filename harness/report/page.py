"""One self-contained HTML page a report: no network, no build step, readable years from now.

Everything but the questions is rendered here, so that it stands without JavaScript, which only sorts, filters, chooses
and explains. Data travels as compressed JSON in base64; templates escape by default; a content policy forbids every
request. Texts are shortened, longest first, where the page would pass its budget.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.channels.registry import CHANNELS, OTHER_COLOR
from harness.errors import UserError
from harness.records import LoadedRun
from harness.records.files import scrub, write_atomic
from harness.report.data import page_data, run_numbers
from harness.report.drawing import color_variable
from harness.report.figures import STAGES
from harness.results import formatting

BUDGET_BYTES = 3_000_000
SCRIPTS = ("dom.js", "tables.js", "browser.js", "main.js")
_SECTIONS = {
    "accuracy": "Accuracy",
    "effects": "Effects",
    "cost": "Cost",
    "stages": "Stages",
    "subjects": "Subjects",
    "gates": "Fuser",
    "questions": "Questions",
    "figures": "All figures",
    "runs": "Runs",
}
_ALWAYS = {"questions", "figures", "runs"}
_LIMITS_CHARS = (4000, 1500, 600, 300, 150, 80)
_FILTERS = {
    "percent": formatting.percent_text,
    "points": formatting.points_text,
    "seconds": formatting.seconds_text,
    "size": formatting.bytes_text,
    "p": formatting.p_text,
    "drawn": Markup,  # our own SVG, in which every text is escaped
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
    content, cut_at_chars = fit_budget(questions_of(data))
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
        compared=data["compared"],
        sections=sections_of(data),
        colors=colors_of(data),
        data=Markup(content),  # noqa: S704 - base64 has no character that HTML reads
        style=Markup(_source(templates, "style.css")),  # noqa: S704 - our own file
        script=Markup("\n".join(_source(templates, name) for name in SCRIPTS)),  # noqa: S704 - our own files
        cut_at_chars=cut_at_chars,
    )


def sections_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns name and title of the sections that the page has; those of each result are chosen in the browser."""
    tasks = [task for run in data["runs"] for task in run["tasks"]]
    there = {figure["name"].split("-")[0] for task in tasks for figure in task["figures"]} | _ALWAYS
    there |= {"gates"} if any(run["gates"] for run in data["runs"]) else set()
    return [(name, title) for name, title in _SECTIONS.items() if name in there]


def questions_of(data: dict[str, Any]) -> dict[str, Any]:
    """Returns what the browser needs of the page's data: names, questions and texts."""
    runs = [
        {
            "id": run["id"],
            "name": run["name"],
            "tasks": [{name: task[name] for name in ("name", "anchor", "questions")} for task in run["tasks"]],
        }
        for run in data["runs"]
    ]
    return {"runs": runs, "texts": data["texts"]}


def colors_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns every colour that figures and questions use, with the name of its CSS variable."""
    used = {entry.color for entry in CHANNELS.loaded()} | {*STAGES.values(), OTHER_COLOR}
    used |= {color for run in data["runs"] for task in run["tasks"] for color in task["colors"]}
    return [(color_variable(color), color) for color in sorted(used)]


def embed_data(data: Any) -> str:
    """Writes data as compressed JSON in base64, which is inert wherever it stands.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def fit_budget(data: dict[str, Any], budget_bytes: int = BUDGET_BYTES) -> tuple[str, int | None]:
    """Returns the embedded data within a budget, and the length at which texts were cut, None where none was."""
    content = embed_data(data)
    for limit in _LIMITS_CHARS:
        if len(content) <= budget_bytes:
            return content, None
        content = embed_data({**data, "texts": [_shortened(text, limit) for text in data["texts"]]})
        if len(content) <= budget_bytes:
            return content, limit
    return content, _LIMITS_CHARS[-1]


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _source(templates: Environment, name: str) -> str:
    if templates.loader is None:
        raise LookupError(name)
    return templates.loader.get_source(templates, name)[0]
