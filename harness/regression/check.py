"""Runs every check and writes the report as lines, Markdown and JUnit XML.

The lines are for the terminal and the Markdown for a build's summary. Guarantees that names from models and data sets
are inert in each of the three forms.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from harness.records.files import explaining, write_atomic
from harness.regression.accuracy_check import check_accuracy
from harness.regression.comparable import check_coverage, check_finished, reasons_not_comparable, repetition_refusals
from harness.regression.differences import Difference, find_differences, first_line, only_rounding
from harness.regression.exact_check import check_counts, check_equality, same_hardware, same_identity
from harness.regression.latency_check import check_latency
from harness.regression.pairing import Run, arm_pairs, load
from harness.regression.verdicts import Options, Report, Status, Verdict
from harness.results.formatting import printable

_ACTIVE = re.compile(r"([\\`*_\[\]|~@$#])")

MOST = 24

_FAILURES: dict[Status, str] = {"regression": "failure", "not comparable": "error", "not shown": "failure"}

_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}

_QUIET: tuple[Status, ...] = ("same", "no worse")


def report_lines(report: Report) -> list[str]:
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


def escape_cell(text: str) -> str:
    """Makes a text inert in a cell of a Markdown table: no markup, no HTML, no new row."""
    return _ACTIVE.sub(r"\\\1", html.escape(_one_line(text), quote=False))


def _one_line(text: str) -> str:
    return re.sub(r"[\t\n\r\u2028\u2029]", " ", printable(text))


def markdown(report: Report) -> str:
    """Returns a section with one table; verdicts that need no reading are folded away."""
    loud = [verdict for verdict in report.verdicts if verdict.status not in _QUIET]
    quiet = [verdict for verdict in report.verdicts if verdict.status in _QUIET]
    parts = ["## Regression check", "", f"**{escape_cell(report.headline)}**", ""]
    parts += [part for line in _differs(report) for part in (escape_cell(line), "")]
    parts += _table(loud)
    if quiet:
        parts += ["<details>", f"<summary>{len(quiet)} unchanged</summary>", "", *_table(quiet), "</details>", ""]
    return "\n".join(parts)


def _table(verdicts: list[Verdict]) -> list[str]:
    if not verdicts:
        return []
    cells = [(verdict.status, verdict.check, verdict.subject, verdict.text) for verdict in verdicts]
    rows = [f"| {' | '.join(map(escape_cell, row))} |" for row in cells]
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
    name, text = (printable(part) for part in (verdict.subject or "run", verdict.text))
    case = ElementTree.SubElement(suite, "testcase", {"classname": f"check.{verdict.check}", "name": name})
    if kind := _kind(verdict):
        ElementTree.SubElement(case, kind, {"message": text, "type": verdict.status}).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = f"{verdict.status}: {text}"


SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def check(baseline: Run | Sequence[Run], run: Run | Sequence[Run], options: Options | None = None) -> Report:
    """Compares a run with its baseline.

    Args:
        baseline: The baseline, or its repetitions in the order in which they ran: the first gives the answers
            and the counts, all of them the seconds.
        run: The run, or its repetitions.
        options: What counts as worse; the defaults where left out.

    Returns:
        Every verdict; its `exit_code` is 0 for same or better, 1 for a regression, 2 for not comparable, 3 for not
        shown to be the same.
    """
    chosen = options or Options()
    bases, heads = _several(baseline), _several(run)
    found = find_differences(bases[0], heads[0])
    verdicts = [*check_finished(heads[0]), *reasons_not_comparable(bases[0], heads[0])]
    verdicts += [verdict for n, base in enumerate(bases[1:], 2) for verdict in repetition_refusals(base, n)]
    if any(verdict.status == "not comparable" for verdict in verdicts):
        return Report.of(verdicts, first_line(found))
    verdicts += _outcomes(bases[0], heads[0], chosen)
    verdicts += [verdict for n, head in enumerate(heads[1:], 2) for verdict in _repeated(heads[0], head, n)]
    if chosen.latency:
        verdicts += check_latency(bases, heads, chosen)
    return Report.of(_excused(verdicts, found, chosen), first_line(found))


def _excused(verdicts: Iterable[Verdict], found: Sequence[Difference], options: Options) -> Iterable[Verdict]:
    """What is not shown fails nothing where only a regression is to fail, by default where only rounding differs."""
    excuse = options.fail_on == "regression" or (options.fail_on is None and only_rounding(found))
    for verdict in verdicts:
        yield replace(verdict, excused=True) if excuse and verdict.status == "not shown" else verdict


def _repeated(first: Run, again: Run, number: int) -> Iterable[Verdict]:
    """Checks that a repetition ended, is whole and answers as the first one did; silent where it does."""
    found = check_finished(again)
    for pair in arm_pairs(first, again):
        if not pair.pooled:
            found += check_coverage(pair)
            if pair.answered and same_identity(first, again):
                found.append(check_equality(pair, same_hardware(first, again)))
    for verdict in found:
        if verdict.status in ("regression", "warning"):
            yield replace(verdict, subject=f"{verdict.subject}, repetition {number}".removeprefix(", "))


def _several(run: Run | Sequence[Run]) -> Sequence[Run]:
    return run if isinstance(run, Sequence) else (run,)


def _outcomes(baseline: Run, run: Run, options: Options) -> Iterable[Verdict]:
    """Checks presence, answers and counts; statistics only judge what equality has not already settled."""
    pairs = arm_pairs(baseline, run)
    alone = [pair for pair in pairs if not pair.pooled]
    for pair in alone:
        yield from check_coverage(pair)
    if not (options.exact and same_identity(baseline, run)):
        yield from check_accuracy(pairs, options)
        return
    hardware = same_hardware(baseline, run)
    verdicts = [check_equality(pair, hardware) for pair in alone if pair.answered]
    yield from verdicts
    drifted = {verdict.subject for verdict in verdicts if verdict.status == "warning"}
    yield from check_accuracy([pair for pair in alone if pair.subject in drifted], options)
    if not drifted:
        yield from check_counts(baseline, run)


def main(
    baseline_path: str | Path,
    run_path: str | Path,
    *,
    options: Options | None = None,
    junit_path: str | Path | None = None,
    markdown_path: str | Path | None = None,
    echo: Callable[[str], None] = print,
) -> int:
    """Checks two runs, prints what differs and a line a verdict and writes the reports that were asked for.

    Args:
        baseline_path: A run folder, a folder of run folders (repetitions of one run), or a leaderboard's record.
        run_path: The same for the run.
        options: What counts as worse.
        junit_path: Where JUnit XML goes; nowhere if left out.
        markdown_path: Where the summary goes besides ``$GITHUB_STEP_SUMMARY``, to which it is appended where set.
        echo: Prints one line.

    Raises:
        UserError: A path holds no run, its schema is unknown, or a report cannot be written.
    """
    report = check(load(Path(baseline_path)), load(Path(run_path)), options)
    for line in report_lines(report):
        echo(line)
    if junit_path:
        write_atomic(Path(junit_path), junit(report))
    summary = markdown(report)
    if markdown_path:
        write_atomic(Path(markdown_path), summary)
    if summary_path := os.environ.get(SUMMARY_VARIABLE):
        _append(Path(summary_path), summary)
    return report.exit_code


def _append(path: Path, text: str) -> None:
    with explaining(path), path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
