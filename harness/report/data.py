"""Runs and their questions as the plain data that the page draws from.

The data are rankings, rows, differences, figures and questions. Questions and answers are kept in columns, small enough
to be carried inside a page: every text is once in a pool and named by its index, and a prompt is kept as its wording
around the question, which most prompts of a task share. What still does not fit the page's budget is shortened and
marked as such, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import pandas as pd

from harness.leaderboard.record_format import ABSENT, FAILED, RIGHT, WRONG
from harness.records.journal import LoadedRun
from harness.records.schema import ResultRow, RunRecord, Sample, Timing
from harness.report.beside import compared_runs, run_names
from harness.report.drawing import NARROW, WIDE, Figure, channel_color, color_variable, inline_svg
from harness.report.figures import gate_figure, task_figures
from harness.report.sidecar import Question, read_questions
from harness.report.subjects import subject_gains
from harness.results import Effect, SpeedUp, effects, facts_of, frame, headline, speed_ups, summarise_run
from harness.results.comparisons import has_message
from harness.results.formatting import arm_text
from harness.results.frame import ranking, verdict_sentences
from harness.results.grouping import RECEIVER, Key, Table, tables, top_level
from harness.results.summary import at_natural_length
from harness.results.terminal_table import legend, ranking_cells

NO_TEXT = -1

QUESTION_MARK, CHOICE_MARKS = "\ue000", "\ue001"


class Pool:
    """Texts by index, each once; lone surrogates become a replacement character, for no file can hold them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, text: str | None) -> int:
        """Returns the index of a text, -1 for none."""
        if text is None:
            return NO_TEXT
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text.encode("utf-8", "replace").decode("utf-8"))
        return self._index[text]


def question_columns(
    table: Table, asked: Mapping[Key, Question], timings: Iterable[Timing], pool: Pool
) -> dict[str, Any]:
    """Returns one task's or group's questions and every arm's answers, column by column.

    Args:
        table: The samples.
        asked: What the sidecar knows of the questions.
        timings: The run's timings; a question has the median of its own in each arm.
        pool: Takes the texts.
    """
    keys = _keys(table)
    known = [asked.get(key) for key in keys]
    samples = [next(arm[key] for arm in table.arms.values() if key in arm) for key in keys]
    seconds = _seconds(timings)
    return {
        "ids": [pool.add(sample.doc_id) for sample in samples],
        "tasks": [pool.add(sample.task) for sample in samples],
        "keys": [pool.add(sample.key) for sample in samples],
        "labels": [[pool.add(label) for label in sample.labels] for sample in samples],
        "subjects": [pool.add(sample.subject or None) for sample in samples],
        "questions": [pool.add(question.question if question else None) for question in known],
        "choices": [[pool.add(choice) for choice in question.choices] if question else [] for question in known],
        "prompts": [pool.add(prompt_wording(question, question.prompt) if question else None) for question in known],
        "sharer_prompts": _sharer_prompts(known, pool),
        "prompt_sha256": [pool.add(sample.prompt_sha256[:12]) for sample in samples],
        "arms": [_arm(arm, [by_key.get(key) for key in keys], seconds, pool) for arm, by_key in table.arms.items()],
    }


def prompt_wording(question: Question, prompt: str) -> str | None:
    """Returns a prompt with marks in place of question and options, so that a task's prompts become one text."""
    if not prompt:
        return None
    text = prompt.replace(question.question, QUESTION_MARK, 1) if question.question else prompt
    for index, choice in enumerate(question.choices):
        if choice:
            text = text.replace(f". {choice}\n", f". {CHOICE_MARKS}{index}{CHOICE_MARKS}\n", 1)
    return text


def _sharer_prompts(known: Sequence[Question | None], pool: Pool) -> list[int]:
    """What the sharer read where the task gives it a view of its own; empty where it reads the receiver's."""
    if not any(question and question.sharer_prompt for question in known):
        return []
    return [pool.add(prompt_wording(question, question.sharer_prompt) if question else None) for question in known]


def _keys(table: Table) -> list[Key]:
    first: dict[Key, Sample] = {}
    for arm in table.arms.values():
        for key, sample in arm.items():
            first.setdefault(key, sample)
    return sorted(first, key=lambda key: (key[0], first[key].position, key[1]))


def _arm(
    arm: tuple[str, str], rows: Sequence[Sample | None], seconds: Mapping[tuple[Key, str, str], float], pool: Pool
) -> dict[str, Any]:
    def column(read: Callable[[Sample], str | None]) -> list[int]:
        found = [pool.add(read(row)) if row else NO_TEXT for row in rows]
        return found if any(index != NO_TEXT for index in found) else []

    return {
        "channel": arm[0],
        "control": arm[1],
        "name": arm_text(*arm),
        "color": color_variable(channel_color(arm[0])),
        "base": arm == RECEIVER,
        "sends": has_message(arm[0]),
        "marks": "".join(map(_mark, rows)),
        "predicted": column(lambda row: row.predicted),
        "strict": column(lambda row: row.predicted_strict),
        "texts": column(lambda row: row.text),
        "messages": column(lambda row: row.message_text),
        "routed": column(lambda row: row.routed_to),
        "errors": column(lambda row: f"{row.error.type}: {row.error.message}" if row.error else None),
        "nats": _nats(rows),
        "e2e_s": {
            index: round(seconds[place], 6)
            for index, row in enumerate(rows)
            if row and (place := ((row.task, row.doc_id), *arm)) in seconds
        },
    }


def _mark(sample: Sample | None) -> str:
    if sample is None:
        return ABSENT
    return (RIGHT if sample.correct else WRONG) if sample.done else FAILED


def _nats(rows: Sequence[Sample | None]) -> list[list[float]]:
    """Loglikelihoods to a hundredth of a nat; empty where the arm generated."""
    found = [[round(x, 2) for x in row.loglikelihoods or []] if row and row.done else [] for row in rows]
    return found if any(found) else []


def _seconds(timings: Iterable[Timing]) -> dict[tuple[Key, str, str], float]:
    by_question: dict[tuple[Key, str, str], list[float]] = {}
    for timing in at_natural_length(list(timings)):
        key = ((timing.task, timing.doc_id), timing.channel, timing.control)
        by_question.setdefault(key, []).append(timing.e2e_s)
    return {key: median(seconds) for key, seconds in by_question.items()}


@dataclass(frozen=True)
class RunNumbers:
    """Everything computed of one run that more than one part of the report shows."""

    run: LoadedRun
    rows: list[ResultRow]
    effects: list[Effect]
    speed_ups: list[SpeedUp]
    tables: list[Table]


def run_numbers(run: LoadedRun) -> RunNumbers:
    """Computes the headline numbers of a run."""
    facts = facts_of(run.record)
    shown = top_level(facts.groups, (sample.task for sample in run.samples))
    return RunNumbers(
        run=run,
        rows=headline(summarise_run(run), facts.groups),
        effects=effects(run.samples, facts),
        speed_ups=[found for found in speed_ups(run.timings, facts.groups) if found.task in shown],
        tables=[table for table in tables(run.samples, facts) if table.name in shown],
    )


def page_data(numbers: Sequence[RunNumbers]) -> dict[str, Any]:
    """Returns the data of a page over one or more runs; texts are in `texts`, questions name their index."""
    pool = Pool()
    names = run_names([found.run for found in numbers])
    runs = [{**_run(found, pool, f"r{index}"), "name": names[index]} for index, found in enumerate(numbers)]
    return {"runs": runs, "compared": compared_runs([found.run for found in numbers]), "texts": pool.texts}


def _run(found: RunNumbers, pool: Pool, prefix: str) -> dict[str, Any]:
    asked = read_questions(found.run.path)
    results = frame([found.run], [found.effects])
    return {
        **provenance(found.run),
        "gates": gate_figures(found.run.record, prefix),
        "tasks": [
            {
                **_task(found, table, f"{prefix}t{index}"),
                **_answer(results[results["task"] == table.name]),
                "questions": question_columns(table, asked, found.run.timings, pool),
            }
            for index, table in enumerate(found.tables)
        ],
    }


def _answer(results: pd.DataFrame) -> dict[str, Any]:
    """The short answer of a task: its ranking as text cells, and the verdict."""
    best = ranking(results)
    cells = ranking_cells(best)
    return {
        "ranking": cells.to_dict("records"),
        "legend": legend(list(cells.columns)),
        "colors": [channel_color(channel) for channel in best["channel"]],
        "verdicts": verdict_sentences(results),
    }


def _task(found: RunNumbers, table: Table, prefix: str) -> dict[str, Any]:
    rows = [row for row in found.rows if row.task == table.name]
    differences = [effect for effect in found.effects if effect.task == table.name]
    faster = [speed_up for speed_up in found.speed_ups if speed_up.task == table.name]
    gains = subject_gains(table)
    figures = task_figures(rows, differences, gains)
    return {
        "name": table.name,
        "anchor": prefix,
        "n": max((row.n for row in rows), default=0),
        "rows": [_finite(row.model_dump()) for row in rows],
        "effects": [{**_finite(asdict(effect)), "title": effect.title} for effect in differences],
        "speed_ups": [_finite(asdict(speed_up)) for speed_up in faster],
        "figures": [figure_with_forms(figure, f"{prefix}{figure.name}-") for figure in figures],
        "failed": sum(row.errors for row in rows),
        "note": "" if gains.channels else gains.left_out_text,
    }


def gate_figures(record: RunRecord, prefix: str) -> list[dict[str, Any]]:
    """Returns the figure of each sharer's gates."""
    by_sharer: dict[Any, list[Mapping[str, Any]]] = {}
    for layer in record.fusion:
        if "layer" in layer:
            by_sharer.setdefault(layer.get("sharer", 0), []).append(layer)
    found = [(sharer, gate_figure(layers)) for sharer, layers in by_sharer.items()]
    return [figure_with_forms(figure, f"{prefix}g{sharer}-") for sharer, figure in found if figure is not None]


def figure_with_forms(figure: Figure, prefix: str) -> dict[str, Any]:
    """Returns a figure with its two forms as SVG; the page shows the one that fits the screen."""
    return {
        "name": figure.name,
        "title": figure.title,
        "lead": figure.lead,
        "wide": inline_svg(figure, WIDE, figure.title, f"{prefix}w-"),
        "narrow": inline_svg(figure, NARROW, figure.title, f"{prefix}n-"),
    }


def provenance(run: LoadedRun) -> dict[str, Any]:
    """Says what a run was: models, machine, commit, state."""
    record = run.record
    return {
        "id": record.run_id,
        "status": record.status,
        "started": record.started_at,
        "receiver": model_references(record, "receiver"),
        "sharers": model_references(record, "sharer"),
        "fusers": [str(fuser.get("reference", fuser.get("path", ""))) for fuser in record.fusers],
        "machine": record.hardware.gpu or record.hardware.cpu,
        "commit": record.git.commit[:12] + (" (modified)" if record.git.dirty else ""),
        "identity": record.identity[:12],
        "warnings": [*record.warnings, *run.warnings],
        "error": f"{record.error.type}: {record.error.message}" if record.error else "",
        "peak_memory_bytes": dict(record.peak_memory_bytes),
    }


def model_references(record: RunRecord, role: str) -> list[str]:
    """Returns the models of a role, such as every sharer."""
    return [model.reference for model in record.models if model.role.startswith(role)]


def _finite(values: Any) -> Any:
    """Puts None in place of numbers that are not finite: JSON has no word for them."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    return [_finite(value) for value in values] if isinstance(values, (list, tuple)) else values
