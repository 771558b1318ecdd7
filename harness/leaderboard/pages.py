"""The pages of a board: an overview, and per task one page in Markdown with its CSV beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from harness.errors import UserError
from harness.leaderboard import cells
from harness.leaderboard.escape import markdown
from harness.leaderboard.origins import HEADINGS, LEFT, Origin, origins, origins_cells, shared_text
from harness.leaderboard.published import published_rows, title
from harness.leaderboard.reading import Entry
from harness.leaderboard.rows import BoardRow, EntryBoard, distinct_rows, entry_boards
from harness.leaderboard.trainings import TrainingsRow, trainings_rows
from harness.records.naming import file_name
from harness.results.wording import detectable_text

MARK = "<!-- Generated from records/; do not edit. -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_EFFECT_HEADINGS = (
    "run",
    "channel",
    "difference",
    "comparison",
    "points",
    "95% interval",
    "p (Holm)",
    "detectable",
    "pairs",
    "left out",
    "verdict",
)
_TRAININGS_HEADINGS = (
    "pair",
    "what",
    "comparison",
    "mean",
    "95% interval",
    "p (Holm)",
    "verdict",
    "each training",
    "questions",
    "left out",
    "weights",
)
_TRAININGS = """Runs that differ in their trained parts alone, averaged where the trainings share their settings (seed,
rows held out and data file may differ and stand below). The interval allows for other questions and for other
trainings, from three on; those above speak of the weights that were run. Things that were trained apart, such as a
fuser and an adapter, are compared without pairing their trainings. p is adjusted by Holm over this table."""
_TRAINED = "As the files of the weights say; rows are named by a digest of the training data."
_SHARED = "Settings that all trainings of a part share:"
_OVERVIEW_HEADINGS = ("task", "pair", "receiver %", "T2T %", "C2C %", "C2C vs receiver", "content effect", "from")
_READING = """Accuracy is right answers over all questions asked, errors included, with a 95% interval that takes
subjects as clusters and parts of fixed size as strata where a task has them. Differences are paired, question by
question, in points; p by exact McNemar (by subject: exact sign flips), adjusted by Holm over all comparisons of the
task on this page; "detectable" is the smallest difference that an exact test of these questions finds with 80%
power at the level that Holm leaves, which stands above the differences. What is not resolved but shown by two
one-sided tests to be below 3 points is "same within 3 points". Weights that were run twice stand once. The content
effect is the matched minus the mean message. Latency is of questions answered alone after warm-up; the speed-up is
the ratio of medians over the same questions. Reported rows were not run here: their interval is Wilson's from the
reported accuracy and n, their time a mean. Blank means not measured."""


def render(entries: Sequence[Entry]) -> dict[str, str]:
    """Returns every page, file name -> content, for a set of records and the published figures.

    Raises:
        UserError: if a task's name cannot be a file name.
    """
    boards = entry_boards(entries)
    every = sorted((*(row for board in boards for row in board.rows), *published_rows()), key=lambda row: row.order)
    rows = distinct_rows(every)
    trainings = trainings_rows(entries)
    pages = {"README.md": _overview(every, rows), "overview.csv": cells.csv_text(rows)}
    for task in sorted({row.task for row in rows}):
        if not _NAME.fullmatch(task):
            raise UserError(f"Task name {task!r} cannot name a page; allowed are letters, digits, '_', '.' and '-'.")
        ours = [row for row in rows if row.task == task]
        averaged = [row for row in trainings if row.task == task]
        pages[f"{_page_name(task)}.md"] = _task_page(task, ours, boards, averaged, origins(entries, task))
        pages[f"{_page_name(task)}.csv"] = cells.csv_text(ours)
    return pages


def _page_name(task: str) -> str:
    return file_name(task, reserved=("readme", "overview"))


def _task_page(
    task: str,
    rows: Sequence[BoardRow],
    boards: Sequence[EntryBoard],
    trainings: Sequence[TrainingsRow],
    trained: Sequence[Origin],
) -> str:
    effects = [
        cells.effect_cells(board.run_id, effect) for board in boards for effect in board.effects if effect.task == task
    ]
    links = f"[All tasks](README.md), [CSV]({_page_name(task)}.csv)"
    parts = [MARK, f"# {markdown(title(task))}", f"Task `{task}`. {links}."]
    parts += [cells.board_table(rows)]
    if effects:
        parts += [
            "## Differences",
            *_family(task, boards),
            cells.table(_EFFECT_HEADINGS, effects, left={0, 1, 2, 3, 10}),
        ]
    if trainings:
        table = cells.table(_TRAININGS_HEADINGS, map(cells.trainings_cells, trainings), left={0, 1, 2, 6, 7, 10})
        parts += ["## Over trainings", _TRAININGS, table]
    if trained:
        table = cells.table(HEADINGS, origins_cells(trained), left=LEFT)
        parts += ["## What was trained", _TRAINED, table, _SHARED, shared_text(trained)]
    return _joined([*parts, "## How to read this", _READING])


def _family(task: str, boards: Sequence[EntryBoard]) -> list[str]:
    levels = {effect.level for board in boards for effect in board.effects if effect.task == task and effect.level}
    return [f"{detectable_text(level).capitalize()}." for level in levels]


def _overview(every: Sequence[BoardRow], distinct: Sequence[BoardRow]) -> str:
    """A line a run; of a run that only repeats others there is none."""
    new = {(row.task, _run_key(row)) for row in distinct}
    lines = [
        _overview_line(task, list(group))
        for task in sorted({row.task for row in every})
        for run, group in groupby((row for row in every if row.task == task), key=_run_key)
        if (task, run) in new
    ]
    table = cells.table(_OVERVIEW_HEADINGS, lines, left={0, 1, 7})
    return _joined([MARK, "# Leaderboards", "One page a task; [all rows as CSV](overview.csv).", table, _READING])


def _run_key(row: BoardRow) -> tuple[object, ...]:
    return (row.receiver, row.sharers, row.kind, row.source, row.run_id)


def _overview_line(task: str, rows: Sequence[BoardRow]) -> list[str]:
    matched = {row.channel: row for row in rows if not row.control}
    scores = [cells.accuracy_text(matched[name].accuracy) if name in matched else "" for name in ("receiver", "t2t")]
    fused = matched.get("c2c")
    return [
        f"[{markdown(title(task))}]({_page_name(task)}.md)",
        cells.pair_text(rows[0]),
        *scores,
        cells.accuracy_text(fused.accuracy) if fused else _self_text(rows),
        cells.difference_text(fused.to_receiver) if fused else "",
        cells.difference_text(fused.content) if fused else "",
        cells.source_text(rows[0]),
    ]


def _self_text(rows: Iterable[BoardRow]) -> str:
    found = [cells.accuracy_text(row.accuracy) for row in rows if (row.channel, row.control) == ("c2c", "self")]
    return f"{found[0]} (self)" if found else ""


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"
