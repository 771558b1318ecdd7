"""Runs -> the plain data that the page is rendered from: rankings, rows, differences, figures, questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from harness import stats
from harness.records import LoadedRun
from harness.records.schema import ResultRow, RunRecord, Sample
from harness.report.drawing import NARROW, WIDE, Figure, channel_color, inline_svg
from harness.report.figures import gate_figure, task_figures
from harness.report.questions import Pool, question_columns, read_questions
from harness.results import Effect, SpeedUp, effects, facts_of, frame, headline, speed_ups, summarise
from harness.results.claims import has_message
from harness.results.groups import RECEIVER, Table, channel_order, tables, top_level
from harness.results.ranking import ranking, verdict_sentence
from harness.results.table import ranking_cells

MOST_SUBJECTS = 80


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
    variants = {row.channel: row.variant for row in run.record.results if row.variant}
    shown = top_level(facts.groups, (sample.task for sample in run.samples))
    return RunNumbers(
        run=run,
        rows=headline(summarise(run.samples, run.timings, facts, variants), facts.groups),
        effects=effects(run.samples, facts),
        speed_ups=[found for found in speed_ups(run.timings, facts.groups) if found.task in shown],
        tables=[table for table in tables(run.samples, facts) if table.name in shown],
    )


def page_data(numbers: Sequence[RunNumbers]) -> dict[str, Any]:
    """Returns the data of a page over one or more runs; texts are in `texts`, questions name their index."""
    pool = Pool()
    runs = [_run(found, pool, f"r{index}") for index, found in enumerate(numbers)]
    return {"runs": runs, "texts": pool.texts}


def _run(found: RunNumbers, pool: Pool, prefix: str) -> dict[str, Any]:
    asked = read_questions(found.run.path)
    results = frame([found.run], [found.effects])
    return {
        **provenance(found.run),
        "gates": gates(found.run.record, prefix),
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
    return {
        "ranking": ranking_cells(best).to_dict("records"),
        "colors": [channel_color(channel) for channel in best["channel"]],
        "verdict": verdict_sentence(results),
    }


def _task(found: RunNumbers, table: Table, prefix: str) -> dict[str, Any]:
    rows = [row for row in found.rows if row.task == table.name]
    differences = [effect for effect in found.effects if effect.task == table.name]
    faster = [speed_up for speed_up in found.speed_ups if speed_up.task == table.name]
    gains = subject_gains(table)
    by_channel: dict[str, list[dict[str, Any]]] = {}
    for gain in sorted(gains, key=lambda gain: -gain["difference"]):
        by_channel.setdefault(gain["channel"], []).append(gain)
    figures = task_figures(
        rows, differences, {name: by_channel[name] for name in sorted(by_channel, key=channel_order)}
    )
    return {
        "name": table.name,
        "anchor": prefix,
        "n": max((row.n for row in rows), default=0),
        "rows": [_finite(row.model_dump()) for row in rows],
        "effects": [{**_finite(asdict(effect)), "title": effect.title} for effect in differences],
        "speed_ups": [_finite(asdict(speed_up)) for speed_up in faster],
        "figures": [drawn(figure, f"{prefix}{figure.name}-") for figure in figures],
        "failed": sum(row.errors for row in rows),
    }


def gates(record: RunRecord, prefix: str) -> list[dict[str, Any]]:
    """Returns the figure of each sharer's gates."""
    by_sharer: dict[Any, list[Mapping[str, Any]]] = {}
    for layer in record.fusion:
        if "layer" in layer:
            by_sharer.setdefault(layer.get("sharer", 0), []).append(layer)
    found = [(sharer, gate_figure(layers)) for sharer, layers in by_sharer.items()]
    return [drawn(figure, f"{prefix}g{sharer}-") for sharer, figure in found if figure is not None]


def drawn(figure: Figure, prefix: str) -> dict[str, Any]:
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
        "receiver": references(record, "receiver"),
        "sharers": references(record, "sharer"),
        "fusers": [str(fuser.get("reference", fuser.get("path", ""))) for fuser in record.fusers],
        "machine": record.hardware.gpu or record.hardware.cpu,
        "commit": record.git.commit[:12] + (" (modified)" if record.git.dirty else ""),
        "identity": record.identity[:12],
        "warnings": [*record.warnings, *run.warnings],
        "error": f"{record.error.type}: {record.error.message}" if record.error else "",
        "peak_memory_bytes": dict(record.peak_memory_bytes),
    }


def references(record: RunRecord, role: str) -> list[str]:
    """Returns the models of a role, such as every sharer."""
    return [model.reference for model in record.models if model.role.startswith(role)]


def subject_gains(table: Table) -> list[dict[str, Any]]:
    """Returns per subject the paired difference of each channel with a message to the receiver; empty without subjects.

    Where subjects are too many to be read (one a fact, say), categories stand in, then the tasks of a group.
    """
    base = table.arms.get(RECEIVER, {})
    name_of = _naming(list(base.values()))
    if name_of is None:
        return []
    found = []
    for (channel, control), arm in table.arms.items():
        if control or not has_message(channel):
            continue
        pairs: dict[str, list[tuple[bool, bool]]] = {}
        for key, sample in arm.items():
            if key in base and sample.done and base[key].done:
                pairs.setdefault(name_of[key], []).append((bool(sample.correct), bool(base[key].correct)))
        found += [{"channel": channel, "subject": name, **_gain(both)} for name, both in sorted(pairs.items())]
    return found


def _naming(samples: Sequence[Sample]) -> Mapping[tuple[str, str], str] | None:
    for attribute in ("subject", "category", "task"):
        names = {(sample.task, sample.doc_id): str(getattr(sample, attribute)) for sample in samples}
        if 1 < len(set(names.values())) <= MOST_SUBJECTS and "" not in names.values():
            return names
    return None


def _gain(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    found = stats.paired([ours for ours, _ in pairs], [theirs for _, theirs in pairs], resamples=1)
    return {"n": found.n, "difference": found.difference, "low": found.interval.low, "high": found.interval.high}


def _finite(values: Any) -> Any:
    """Puts None in place of numbers that are not finite: JSON has no word for them."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    return [_finite(value) for value in values] if isinstance(values, (list, tuple)) else values
