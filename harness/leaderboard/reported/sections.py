"""The part of a task's page about what others reported: a table a source and pair, and its paired comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from harness.leaderboard import cells
from harness.leaderboard.pairs import Pair
from harness.leaderboard.reported.board import ReportedBoard
from harness.leaderboard.reported.reading import Reported
from harness.results import Effect
from harness.results.formatting import arm_text, markdown
from harness.results.frame import REPORTED_ITEMS

HEADING = "Reported by others"
_FIGURES = """Not run here. Their interval is Wilson's from the reported accuracy and n, their time a mean."""
_ITEMS = """**Reported per item, not run here**: letters and keys of every question were imported, so that intervals and
paired tests are those of our own rows; p is adjusted by Holm over the comparisons of one source, task and pair.
**gain** is points over the receiver, blank where the source has no answers of it. Times are as their evaluator took
them: median, then mean. **Not joined**: the file says neither which question a row is nor its text, so that its rows
are compared among themselves alone."""
_SHOWN_DIGITS = 12


def reported_parts(pairs: Sequence[Pair], board: ReportedBoard) -> Iterator[str]:
    """Yields the parts of one task; nothing without reported rows."""
    if not pairs:
        return
    yield f"## {HEADING}"
    yield _FIGURES
    if any((pair.every["kind"] == REPORTED_ITEMS).any() for pair in pairs):
        yield _ITEMS
    for pair in pairs:
        for source, rows in pair.every.groupby("source", sort=True):
            yield f"### {cells.pair_text(pair)}"
            yield from _source_parts(str(source), rows, board)


def _source_parts(source: str, rows: pd.DataFrame, board: ReportedBoard) -> Iterator[str]:
    first = rows.iloc[0]
    place = (str(first["task"]), str(first["receiver"]), str(first["sharers"]), source)
    entries = board.entries.get(place, [])
    yield f"{_stated(source, list(rows['hardware']), entries)}."
    yield cells.reported_table(rows)
    if effects := board.effects.get(place):
        summary = f"Differences, question by question ({len(effects)})"
        yield cells.details(summary, [cells.difference_table(_differences(effects), {})])
    if entries:
        yield cells.details("Where they come from", ["\n".join(f"* {_entry_text(entry)}" for entry in entries)])


def _stated(source: str, hardware: Sequence[str], entries: Sequence[Reported]) -> str:
    records = [entry.record for entry in entries]
    items = REPORTED_ITEMS if any(record.arms for record in records) else ""
    parts = [source, items, *dict.fromkeys(hardware), *dict.fromkeys(record.licence for record in records)]
    parts += dict.fromkeys(_joined(entry) for entry in entries)
    return markdown(", ".join(part for part in parts if part))


def _joined(entry: Reported) -> str:
    record = entry.record
    if record.questions is None:
        return "figures alone"
    n = len(record.questions.keys)
    if not record.joined_by:
        return f"{n} questions that cannot be joined to ours"
    return f"{n} of {record.of_questions} questions, joined by {', '.join(record.joined_by)}"


def _entry_text(entry: Reported) -> str:
    record = entry.record
    named = [" ".join(filter(None, (arm_text(arm.channel, arm.control), arm.variant))) for arm in entry.arms]
    files = [f"{file.path}{_digest(file.sha256)}" for file in record.files]
    cut = f"{record.cut_options} questions with their first options alone" if record.cut_options else ""
    parts = [", ".join(named), record.repository, f"commit {record.commit}", *files, record.evaluator, cut, record.note]
    return markdown("; ".join(part for part in parts if part))


def _digest(sha256: str) -> str:
    return f" (sha256 {sha256[:_SHOWN_DIGITS]})" if sha256 else ""


def _differences(effects: Sequence[Effect]) -> pd.DataFrame:
    parts = ("difference", "low", "high", "p_holm", "minimum_detectable", "n", "left_out", "verdict")
    listed: pd.DataFrame = pd.DataFrame(
        [
            {
                "arm": arm_text(*effect.arm),
                "comparison": f"vs {arm_text(*effect.base)}",
                **{part: getattr(effect, part) for part in parts},
            }
            for effect in effects
        ]
    )
    return listed
