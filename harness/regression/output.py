"""A report as terminal lines, as Markdown for a build's summary and as JUnit XML.

Guarantees that names from models and data sets are inert in each of them.
"""

from __future__ import annotations

import html
import re
from itertools import groupby
from xml.etree import ElementTree

from harness.regression.verdicts import Report, Status, Verdict

# Everything that XML 1.0 forbids, even escaped, and what else could steer a terminal.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ACTIVE = re.compile(r"([\\`*_\[\]|~@$#])")
MOST = 24
_FAILURES: dict[Status, str] = {"regression": "failure", "not comparable": "error", "not shown": "failure"}
_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}
_QUIET: tuple[Status, ...] = ("same", "no worse")


def lines(report: Report) -> list[str]:
    """Returns what differs, then one line a verdict, the gravest last: nearest to the prompt.

    Of many harmless verdicts of one kind (57 subjects, none resolved) only the first are shown, those over all tasks
    among them; Markdown and JUnit hold every one. Whatever fails a build is always shown.
    """
    shown: list[str] = []
    for (status, check), group in groupby(report.verdicts, key=lambda verdict: (verdict.status, verdict.check)):
        printed = [_one_line(verdict.line) for verdict in group]
        hidden = len(printed) - MOST if status in (*_QUIET, "warning") else 0
        if hidden > 0:
            printed[MOST:] = [f"{status.upper():<14} {check:<9} and {hidden} more, listed by --markdown and --junit"]
        shown += printed
    return [*_differs(report), *reversed(shown), report.headline]


def _differs(report: Report) -> list[str]:
    return [_one_line(report.differs)] if report.differs else []


def escape(text: str) -> str:
    """Makes a text inert in a cell of a Markdown table: no markup, no HTML, no new row."""
    return _ACTIVE.sub(r"\\\1", html.escape(_one_line(text), quote=False))


def _one_line(text: str) -> str:
    return re.sub(r"[\t\n\r\u2028\u2029]", " ", _printable(text))


def _printable(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def markdown(report: Report) -> str:
    """Returns a section with one table; verdicts that need no reading are folded away."""
    loud = [verdict for verdict in report.verdicts if verdict.status not in _QUIET]
    quiet = [verdict for verdict in report.verdicts if verdict.status in _QUIET]
    parts = ["## Regression check", "", f"**{escape(report.headline)}**", ""]
    parts += [part for line in _differs(report) for part in (escape(line), "")]
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
    """Returns a JUnit suite with one test case a verdict; what is excused is skipped."""
    kinds = [_kind(verdict) for verdict in report.verdicts]
    count = {name: kinds.count(kind) for name, kind in _COUNTED.items()}
    numbers = {"tests": str(len(report.verdicts)), **{name: str(value) for name, value in count.items()}}
    suite = ElementTree.Element("testsuite", {"name": "c2c-harness check", **numbers})
    if report.differs:
        properties = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(properties, "property", {"name": "differs", "value": _one_line(report.differs)})
    for verdict in report.verdicts:
        _case(suite, verdict)
    root = ElementTree.Element("testsuites", numbers)
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _kind(verdict: Verdict) -> str:
    if verdict.excused:
        return "skipped"
    return _FAILURES.get(verdict.status, "")


def _case(suite: ElementTree.Element, verdict: Verdict) -> None:
    name, text = (_printable(part) for part in (verdict.subject or "run", verdict.text))
    case = ElementTree.SubElement(suite, "testcase", {"classname": f"check.{verdict.check}", "name": name})
    if kind := _kind(verdict):
        ElementTree.SubElement(case, kind, {"message": text, "type": verdict.status}).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = f"{verdict.status}: {text}"
