"""The pages of a board: an overview, and per task one page in Markdown with its CSV and its picture beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from harness.errors import UserError
from harness.leaderboard import cells
from harness.leaderboard.pairs import Pair, model_pairs, resolved_first, with_recipes
from harness.leaderboard.pictures import THEMES, picture_data
from harness.leaderboard.record_format import Entry
from harness.leaderboard.reported.board import ReportedBoard
from harness.leaderboard.reported.sections import HEADING, reported_parts
from harness.leaderboard.rerun import rerun_command
from harness.leaderboard.rows import benchmark_title, board_frame
from harness.leaderboard.trainings import TrainingsRow, origins, origins_text, shared_text, trainings_rows
from harness.records.files import file_name
from harness.records.schema import objects_of, open_pins
from harness.results.formatting import markdown
from harness.results.frame import MEASURED, ranking, verdict_sentences
from harness.results.grouping import arm_order
from harness.results.terminal_table import pivot_differences

MARK = "<!-- Generated from records/; do not edit. -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TRAININGS = """Runs that differ in their trained parts alone, averaged where the trainings share their settings (seed,
rows held out and data file may differ and stand below). The interval allows for other questions and for other
trainings, from three on. Things that were trained apart, such as a fuser and an adapter, are compared without pairing
their trainings. p is adjusted by Holm over this table."""
_TRAINED = "As the files of the weights say; rows are named by a digest of the training data."
_SHARED = "Settings that all trainings of a part share:"
_LEGEND = """Accuracy in % with its 95% interval. **gain**: points over the receiver alone. **cost**: median time to
first token over the receiver's, and the size of the message. Several trainings are one row: their mean."""
_OVERVIEW_LEGEND = """Receiver, best baseline and best channel, accuracy in % with its 95% interval.
**communicates**: adds to receiver, sharer, ensemble and T2T (but itself) and to the majority label, and the content
of its message is shown to count. **adapts**: the same, but the content is not shown to count. **harms**: below the
receiver. **not resolved**: anything else, also where one of the four was not run; the page says what explains the
gain. TTFT: median time to first token over the receiver's, "not timed" where the run timed nothing. The size is
that of the message; others report a mean time. Of a task's pairs those with a resolved verdict come first."""
_READING = """Accuracy is right answers over all questions asked, errors included, with a 95% interval that takes
subjects as clusters and parts of fixed size as strata where a task has them. A verdict is the weakest of a
channel's differences to receiver, sharer, ensemble and T2T, each tested by itself; arms that were not run are
named. Other differences are paired, question by question, in points; p by exact McNemar (by subject: exact sign
flips), adjusted by Holm over all comparisons of the task on this page; ± is the smallest difference that an exact
test of these questions finds with 80% power at the level that Holm leaves. What is not resolved but shown by two
one-sided tests to be below 3 points is "same within 3 points". Weights that were run twice stand once. The content
effect is as sent minus the mean message; of text, which has no mean, minus another question's. `majority` answers
the most frequent label, `oracle` is right where either model is, `chance` guesses. Latency is of questions answered
alone after warm-up, median and p90; "over T2T" is T2T's median end-to-end time over this row's, on the questions
that both answered one after the other, with the rounds of a question read as one. "strict" is the accuracy by the
parser that takes plain answers alone, r1, r2, ... are the runs listed under Provenance. Blank means not measured."""


@dataclass(frozen=True)
class Rendered:
    """A board's files.

    Attributes:
        texts: file name -> content.
        pictures: file name -> theme and the data that the picture draws.
    """

    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, tuple[str, str]] = field(default_factory=dict)


def render(
    entries: Sequence[Entry], reported: ReportedBoard | None = None, published: pd.DataFrame | None = None
) -> Rendered:
    """Returns every file for a set of records, what others reported, and the published figures.

    Raises:
        UserError: if a task's name cannot be a file name.
    """
    others = reported or ReportedBoard()
    told = [frame for frame in (published, others.frame) if frame is not None and len(frame)]
    here = with_recipes(board_frame(entries), entries)
    rows = _ordered(pd.concat([here, *(frame.assign(also="", recipe="") for frame in told)], ignore_index=True))
    pairs = _measured_pairs(rows, trainings_rows(entries))
    reported_rows = cells.read_columns(rows[rows["kind"] != MEASURED])
    rendered = Rendered({"README.md": _overview(pairs, reported_rows), "overview.csv": cells.csv_text(rows)})
    for task, own in rows.groupby("task", sort=True):
        if not _NAME.fullmatch(str(task)):
            raise UserError(f"Task name {task!r} cannot name a page; allowed are letters, digits, '_', '.' and '-'.")
        name = _page_name(str(task))
        rendered.texts[f"{name}.csv"] = cells.csv_text(own)
        measured = pairs.get(str(task), [])
        for theme in THEMES if measured else ():
            rendered.pictures[f"{name}-{theme}.svg"] = theme, picture_data(measured)
        links = f"[All tasks](README.md), [CSV]({name}.csv)"
        head = [MARK, f"# {markdown(benchmark_title(str(task)))}", f"Task `{task}`. {links}."]
        body = _task(own, measured, entries, others, picture=_picture(name, str(task)))
        rendered.texts[f"{name}.md"] = _joined([*head, *body, "## How to read this", _READING])
    return rendered


def own_page(entry: Entry) -> str:
    """Returns one page about all tasks of one run."""
    rows = _ordered(with_recipes(board_frame([entry]), [entry]))
    pairs = _measured_pairs(rows, trainings_rows([entry]))
    parts = [f"# Run {markdown(entry.record.run.run_id)}"]
    for task, own in rows.groupby("task", sort=True):
        parts += [
            f"# {markdown(benchmark_title(str(task)))}",
            *_task(own, pairs[str(task)], [entry], ReportedBoard(), picture=""),
        ]
    return _joined([*parts, "## How to read this", _READING])


def _measured_pairs(rows: pd.DataFrame, trainings: Sequence[TrainingsRow]) -> dict[str, list[Pair]]:
    """Task -> pairs that were run here; without tasks that nobody ran."""
    return {
        str(task): resolved_first(model_pairs(own, [row for row in trainings if row.task == task]))
        for task, own in rows[rows["kind"] == MEASURED].groupby("task", sort=True)
    }


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs by name; in a pair what was measured first, then what was reported; arms in their usual order."""
    arms = list(zip(rows["channel"], rows["control"], strict=True))
    places = {arm: place for place, arm in enumerate(sorted(set(arms), key=arm_order))}
    ordered: pd.DataFrame = rows.assign(place=[places[arm] for arm in arms]).sort_values(
        ["receiver", "sharers", "kind", "source", "run_id", "place"], kind="stable", ignore_index=True
    )
    placed: pd.DataFrame = ordered.drop(columns="place")
    return placed


def _page_name(task: str) -> str:
    return file_name(task, reserved=("readme", "overview"))


def _picture(name: str, task: str) -> str:
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">'
    return f'<picture>{source}<img src="{name}-light.svg" alt="Accuracy of every row on {markdown(task)}"></picture>'


def _task(
    rows: pd.DataFrame,
    measured: Sequence[Pair],
    entries: Sequence[Entry],
    reported: ReportedBoard,
    picture: str,
) -> Iterator[str]:
    task = str(rows.iloc[0]["task"])
    own = [entry for entry in entries if any(row.task == task for row in entry.rows)]
    runs = {entry.record.run.run_id: f"r{number}" for number, entry in enumerate(own, 1)}
    if measured:
        yield "## Run here"
    for pair in measured:
        best = ranking(pair.rows)
        yield f"### {cells.pair_text(pair)}, {cells.asked_text(best.to_dict('records'))}"
        yield cells.ranking_table(best)
        yield "\n".join(f"* {markdown(sentence)}" for sentence in verdict_sentences(pair.rows))
    if measured:
        yield from (_LEGEND, picture)
    for pair in measured:
        yield cells.details(f"Every row of {cells.pair_text(pair)}: controls, times, differences", _every(pair, runs))
    yield from reported_parts(list(model_pairs(cells.read_columns(rows[rows["kind"] != MEASURED]))), reported)
    if own:
        yield cells.details("Provenance", _provenance(own, runs, task))


def _every(pair: Pair, runs: Mapping[str, str]) -> Iterator[str]:
    yield "#### Accuracy and controls"
    yield cells.score_table(pair.every, runs)
    if times := cells.time_table(pair.every, runs):
        yield from ("#### Times", times)
    judged = pair.every[pair.every["verdict_text"] != ""]
    if not judged.empty:
        yield "#### Verdicts"
        yield "\n".join(f"* {runs[row['run_id']]}: {markdown(row['verdict_text'])}" for _, row in judged.iterrows())
    compared = pivot_differences(pair.every)
    if not compared.empty:
        yield from ("#### Differences", cells.difference_table(compared, runs))
    if pair.trainings:
        yield from ("#### Over trainings", _TRAININGS, cells.trainings_table(pair.trainings))


def _provenance(entries: Sequence[Entry], runs: Mapping[str, str], task: str) -> Iterator[str]:
    yield "\n".join(f"* {_run_text(entry, runs)}" for entry in entries)
    if trained := origins(entries, task):
        yield from ("#### What was trained", _TRAINED, origins_text(trained), _SHARED, shared_text(trained))


def _run_text(entry: Entry, runs: Mapping[str, str]) -> str:
    run = entry.record.run
    backend = f"through {run.engine.backend}" if run.engine else ""
    commit = f"{run.git.commit[:12]}{' (modified)' if run.git.dirty else ''}"
    pins = ", ".join(open_pins(run))
    where = (run.started_at[:10], commit, run.hardware.gpu or run.hardware.cpu)
    named = (f"run {run.run_id}", backend, *where, f"open pins: {pins}" if pins else "")
    models = ", ".join(f"{model.role} {model.reference} sha256 {model.fingerprint[:12]}" for model in run.models)
    text = markdown(", ".join(part for part in named if part))
    rerun = "from Python, with the same objects" if objects_of(run) else _code(rerun_command(run))
    return f"{runs[run.run_id]}: {text}; {markdown(models)}; rerun: {rerun}"


def _code(text: str) -> str:
    """A command as code that may break, which a code span may not."""
    return f"<code>{markdown(text)}</code>"


def _overview(measured: Mapping[str, Sequence[Pair]], told: pd.DataFrame) -> str:
    ours = [(task, pair, "") for task, pairs in measured.items() for pair in pairs]
    others = [
        (str(task), pair, str(source))
        for (task, source), part in told.groupby(["task", "source"], sort=True)
        for pair in model_pairs(part)
    ]
    parts = [MARK, "# Leaderboards", "One page a task; [all rows as CSV](overview.csv)."]
    for heading, lines in (("Run here", ours), (HEADING, others)):
        if lines:
            parts += [f"## {heading}", _overview_table(lines)]
    return _joined([*parts, "## How to read this", _OVERVIEW_LEGEND, _READING])


def _overview_table(lines: Sequence[tuple[str, Pair, str]]) -> str:
    shown = [cells.overview_rows(pair) for _, pair, _ in lines]
    values = [*map(cells.overview_cells, shown)]
    names = [
        cells.stack_cells(
            f"[{cells.name_text(benchmark_title(task))}]({_page_name(task)}.md)",
            cells.pair_text(pair),
            cells.asked_text(rows),
            markdown(source),
        )
        for (task, pair, source), rows in zip(lines, shown, strict=True)
    ]
    scores, verdicts = [score for score, _ in values], [verdict for _, verdict in values]
    return cells.table({"task": names, "accu&shy;racy": scores, "verdict, cost": verdicts}, left=3)


def _link(task: str) -> str:
    return f"[{cells.name_text(benchmark_title(task))}]({_page_name(task)}.md)"


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
