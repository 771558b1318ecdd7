"""A report as terminal lines, as Markdown for a build's summary and as JUnit XML.

Guarantees that names from models and data sets are inert in each of them.
"""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

from harness.regression.verdicts import Report, Status, Verdict

# Everything that XML 1.0 forbids, even escaped, and what else could steer a terminal.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ACTIVE = re.compile(r"([\\`*_\[\]|~@$#])")
_FAILURES: dict[Status, str] = {"regression": "failure", "not comparable": "error"}


def lines(report: Report) -> list[str]:
    """Returns one line a verdict, the gravest last: nearest to the prompt."""
    return [
        *(re.sub(r"[\t\n\r]", " ", _printable(verdict.line)) for verdict in reversed(report.verdicts)),
        report.headline,
    ]


def escape(text: str) -> str:
    """Makes a text inert in a cell of a Markdown table: no markup, no HTML, no new row."""
    return _ACTIVE.sub(r"\\\1", html.escape(_one_line(text), quote=False))


def _one_line(text: str) -> str:
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def markdown(report: Report) -> str:
    """Returns a section with one table; verdicts that need no reading are folded away."""
    loud = [verdict for verdict in report.verdicts if verdict.status != "same"]
    quiet = [verdict for verdict in report.verdicts if verdict.status == "same"]
    parts = ["## Regression check", "", f"**{escape(report.headline)}**", ""]
    parts += _table(loud)
    if quiet:
        parts += ["<details>", f"<summary>{len(quiet)} unchanged</summary>", "", *_table(quiet), "</details>", ""]
    return "\n".join(parts)


def _table(verdicts: list[Verdict]) -> list[str]:
    if not verdicts:
        return []
    cells = [(verdict.status, verdict.check, verdict.subject, verdict.text) for verdict in verdicts]
    rows = [f"| {' | '.join(map(escape, row))} |" for row in cells]
    return ["| verdict | check | where | finding |", "|---|---|---|---|", *rows, ""]


def junit(report: Report) -> str:
    """Returns a JUnit suite with one test case a verdict."""
    count = {"failures": report.count("regression"), "errors": report.count("not comparable")}
    numbers = {"tests": str(len(report.verdicts)), **{name: str(value) for name, value in count.items()}}
    suite = ElementTree.Element("testsuite", {"name": "c2c-harness check", **numbers})
    for verdict in report.verdicts:
        _case(suite, verdict)
    root = ElementTree.Element("testsuites", numbers)
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, verdict: Verdict) -> None:
    name, text = (_printable(part) for part in (verdict.subject or "run", verdict.text))
    case = ElementTree.SubElement(suite, "testcase", {"classname": f"check.{verdict.check}", "name": name})
    kind = _FAILURES.get(verdict.status)
    if kind:
        ElementTree.SubElement(case, kind, {"message": text, "type": verdict.status}).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = f"{verdict.status}: {text}"
