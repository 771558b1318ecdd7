"""All results as one tidy data frame, a row an arm and task, and the ranking of each task.

Terminal, boards and CSV are selections, sorts and pivots of this frame. Nothing is rounded here, and what was not
measured is missing (`NaN`, `NA` or an empty text). The ranking is the short answer: at most eight rows, best first, and
one sentence that judges the best channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pandas as pd

from harness.records.journal import LoadedRun
from harness.records.schema import ResultRow, RunRecord
from harness.results.comparisons import KINDS, Claim, Effect, claims, effects, has_message
from harness.results.formatting import arm_text
from harness.results.grouping import RECEIVER, Arm, entry_of, facts_of, headline
from harness.results.summary import SpeedUp, speed_ups, summarise_run

MEASURED, REPORTED = "measured", "reported, not re-run"

REPORTED_ITEMS = "reported per item, not run here"

TEXT, COUNT, NUMBER, FLAG = "str", "Int64", "float64", "boolean"

_BLANK = {TEXT: "", COUNT: pd.NA, NUMBER: np.nan, FLAG: pd.NA}

# Parts of every comparison's columns, see `harness.results.comparisons.Effect`.
_PARTS = {
    "difference": (NUMBER, "difference of accuracies, as a fraction"),
    "low": (NUMBER, "lower bound of its 95% interval"),
    "high": (NUMBER, "upper bound of its 95% interval"),
    "p_holm": (NUMBER, "its p, adjusted by Holm"),
    "minimum_detectable": (NUMBER, "smallest difference found with 80% power at `level`, as a fraction"),
    "level": (NUMBER, "what Holm leaves to each test of the family"),
    "n": (COUNT, "questions compared"),
    "left_out": (COUNT, "questions left out: an error on either side, or not asked"),
    "verdict": (TEXT, "in words"),
}

_COLUMNS: dict[str, tuple[str, str]] = {
    "task": (TEXT, "task or group"),
    "headline": (FLAG, "no larger group of this run holds it"),
    "receiver": (TEXT, "receiver model"),
    "sharers": (TEXT, "sharer models, joined by ' + '"),
    "channel": (TEXT, "channel with its options"),
    "control": (TEXT, "control; empty for the channel itself"),
    "arm": (TEXT, "channel and control in one word"),
    "variant": (TEXT, "choices inside the channel, such as the T2T variant"),
    "model_pass": (FLAG, "False: computed from the questions and other rows' answers"),
    "accuracy": (NUMBER, "right answers over questions asked, as a fraction"),
    "accuracy_low": (NUMBER, "lower bound of its 95% interval"),
    "accuracy_high": (NUMBER, "upper bound of its 95% interval"),
    "accuracy_strict": (NUMBER, "accuracy by the strict parser"),
    "parsers_disagree": (COUNT, "answers that the two parsers read differently"),
    "echoes": (COUNT, "answers that repeat the labels of the instruction"),
    "n": (COUNT, "questions asked, errors included"),
    "errors": (COUNT, "questions without an answer"),
    "invalid": (COUNT, "answers without a label"),
    "verdict": (TEXT, "of a channel with a message: communicates, adapts, not resolved or harms"),
    "verdict_text": (TEXT, "the same as a sentence"),
    "ttft_s_p50": (NUMBER, "time to first token, median, seconds"),
    "ttft_s_p90": (NUMBER, "time to first token, 90th percentile, seconds"),
    "ttft_ratio": (NUMBER, "median time to first token over that of the receiver alone"),
    "e2e_s_p50": (NUMBER, "end-to-end time, median, seconds"),
    "e2e_s_p90": (NUMBER, "end-to-end time, 90th percentile, seconds"),
    "e2e_s_mean": (NUMBER, "end-to-end time, mean, seconds; of reported rows"),
    "speed_up": (NUMBER, "end-to-end time of T2T over this arm's"),
    "speed_up_low": (NUMBER, "lower bound of its 95% interval"),
    "speed_up_high": (NUMBER, "upper bound of its 95% interval"),
    "speed_up_n": (COUNT, "questions that both answered next to each other"),
    "speed_up_lost": (COUNT, "questions that were timed, but not through both"),
    "payload_bytes": (NUMBER, "message, mean, bytes"),
    "tokens_out": (NUMBER, "answer, mean, tokens"),
    "peak_memory_bytes": (COUNT, "peak of the whole run, bytes"),
    "kind": (TEXT, f"{MEASURED!r}, {REPORTED_ITEMS!r} or {REPORTED!r}"),
    "source": (TEXT, "run or publication"),
    "run_id": (TEXT, "run"),
    "started_at": (TEXT, "ISO 8601, UTC"),
    "commit": (TEXT, "commit of the harness"),
    "dirty": (FLAG, "the checkout was modified"),
    "hardware": (TEXT, "GPU, or CPU where there is none"),
}


def part_column(kind: str, part: str) -> str:
    """Names the column of one part of a comparison: `content`, `content_low`, ..."""
    return kind if part == "difference" else f"{kind}_{part}"


def comparison_fields(effect: Effect) -> dict[str, Any]:
    """The columns of one of the named comparisons."""
    return {part_column(effect.kind, part): getattr(effect, part) for part in _PARTS}


def _comparison_columns() -> Iterator[tuple[str, tuple[str, str]]]:
    for kind in KINDS:
        for part, (dtype, text) in _PARTS.items():
            yield part_column(kind.name, part), (dtype, f"{kind.title}: {text}")


_ALL = {**_COLUMNS, **dict(_comparison_columns())}

COLUMNS: Mapping[str, str] = {name: text for name, (_, text) in _ALL.items()}

"""Column -> what it holds, with its unit."""


@runtime_checkable
class Recorded(Protocol):
    """A record of another form that can be read as a run, such as one of a board."""

    @property
    def loaded(self) -> LoadedRun:
        """The run, with the groups in its record."""

    @property
    def rows(self) -> list[ResultRow]:
        """Its rows, computed from the answers, with the means that only the run knew."""


def frame(records: Iterable[LoadedRun | Recorded], found: Sequence[Sequence[Effect]] | None = None) -> pd.DataFrame:
    """Puts the results of runs into one tidy frame.

    Args:
        records: loaded runs or records of a board.
        found: comparisons of each record, where they belong to a larger family than the record's own.

    Returns:
        A row a run, task (or group) and arm, in that order; columns as `COLUMNS` describes them.
    """
    listed = list(records)
    families = [None] * len(listed) if found is None else found
    return typed_frame(
        row for record, own in zip(listed, families, strict=True) for row in _run_rows(*_read(record), own)
    )


def typed_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Builds a frame of `COLUMNS` from rows that may lack some of them."""
    listed = list(rows)
    columns = {name: _column([row.get(name) for row in listed], dtype) for name, (dtype, _) in _ALL.items()}
    consolidated: pd.DataFrame = pd.DataFrame(columns).copy()  # in few blocks, so that rows are selected quickly
    return consolidated


def _column(cells: Sequence[Any], dtype: str) -> Any:
    known = np.fromiter(cells, dtype=object, count=len(cells))
    known[pd.isna(known)] = _BLANK[dtype]
    return pd.Series(known).astype(cast("Any", dtype))


def _read(record: LoadedRun | Recorded) -> tuple[LoadedRun, list[ResultRow]]:
    if isinstance(record, Recorded):
        return record.loaded, record.rows
    return record, summarise_run(record)


def _run_rows(run: LoadedRun, rows: Sequence[ResultRow], own: Sequence[Effect] | None) -> Iterator[dict[str, Any]]:
    facts = facts_of(run.record)
    shown = {row.task for row in headline(rows, facts.groups)}
    differences, judged = effects(run.samples, facts) if own is None else own, claims(run.samples, facts)
    found = _Found(differences, judged, speed_ups(run.timings, facts.groups), rows)
    shared = _provenance(run.record)
    for row in rows:
        yield {**shared, **_row_fields(row), **found.fields(row), "headline": row.task in shown}


class _Found:
    """What belongs to one run's rows, by task and arm."""

    def __init__(
        self,
        differences: Sequence[Effect],
        judged: Sequence[Claim],
        faster: Sequence[SpeedUp],
        rows: Sequence[ResultRow],
    ) -> None:
        self._effects: dict[tuple[str, Arm], list[Effect]] = {}
        for effect in differences:
            self._effects.setdefault((effect.task, effect.arm), []).append(effect)
        self._claims = {(claim.task, (claim.channel, "")): claim for claim in judged}
        self._faster = {(one.task, one.arm): one for one in faster}
        self._first = {row.task: row.ttft_s_p50 for row in rows if (row.channel, row.control) == RECEIVER}

    def fields(self, row: ResultRow) -> dict[str, Any]:
        """The columns of a row that are not its own."""
        where = row.task, (row.channel, row.control)
        fields: dict[str, Any] = {}
        for effect in self._effects.get(where, ()):
            fields |= comparison_fields(effect)
        if claim := self._claims.get(where):
            fields |= {"verdict": claim.verdict, "verdict_text": claim.text}
        if one := self._faster.get(where):
            fields |= {"speed_up": one.ratio, "speed_up_low": one.low, "speed_up_high": one.high}
            fields |= {"speed_up_n": one.n, "speed_up_lost": one.lost}
        base = self._first.get(row.task)
        if base and row.ttft_s_p50 is not None:
            fields["ttft_ratio"] = row.ttft_s_p50 / base
        return fields


def _row_fields(row: ResultRow) -> dict[str, Any]:
    fields = {name: value for name, value in row.model_dump().items() if name in COLUMNS}
    arm = arm_text(row.channel, row.control)
    return {**fields, "arm": arm, "payload_bytes": row.payload_bytes_mean, "tokens_out": row.tokens_out_mean}


def _provenance(record: RunRecord) -> dict[str, Any]:
    models = {role: [m.reference for m in record.models if m.role.startswith(role)] for role in ("receiver", "sharer")}
    return {
        "receiver": next(iter(models["receiver"]), ""),
        "sharers": " + ".join(models["sharer"]),
        "peak_memory_bytes": record.peak_memory_bytes.get("process"),
        "kind": MEASURED,
        "source": f"run {record.run_id}{f' through {record.engine.backend}' if record.engine else ''}",
        "run_id": record.run_id,
        "started_at": record.started_at,
        "commit": record.git.commit,
        "dirty": record.git.dirty,
        "hardware": record.hardware.gpu or record.hardware.cpu,
    }


MOST_ROWS = 8

# Upper bound of both models: nobody can choose it, so it is no baseline to beat.
_NO_BASELINES = ("oracle",)

_DECIDING = ["channel", "control", "arm", "accuracy"]


def ranking(rows: pd.DataFrame, most: int = MOST_ROWS) -> pd.DataFrame:
    """Selects the receiver, the best baseline and the channels with a message, best first.

    Args:
        rows: of one task and pair, as `harness.results.frame` gives them, under distinct index labels.
        most: rows to keep; the receiver and the best baseline stay, the weakest channels go.
    """
    told = rows[_DECIDING]  # few columns, since taking rows of all is what costs
    own = told[told["control"] == ""].sort_values("accuracy", ascending=False, kind="stable")
    message = own["channel"].map(has_message).astype(bool)
    receiver = own[own["arm"] == arm_text(*RECEIVER)]
    baselines = own[~message & ~own["arm"].isin([arm_text(*RECEIVER), *_NO_BASELINES])]
    held = pd.concat([receiver.head(1), baselines.head(1)])
    chosen = pd.concat([held, own[message].head(most - len(held))])
    best_first: pd.DataFrame = rows.loc[chosen.sort_values("accuracy", ascending=False, kind="stable").index]
    return best_first


def not_ranked(rows: pd.DataFrame) -> list[str]:
    """Names what `ranking` leaves out of what was asked for: no controls, and nothing that asks no model.

    Args:
        rows: of one task and pair.
    """
    own = rows[(rows["control"] == "") & ~rows["arm"].isin(ranking(rows)["arm"])]
    return [str(arm) for arm, channel in zip(own["arm"], own["channel"], strict=True) if _asked_for(str(channel))]


def _asked_for(channel: str) -> bool:
    """Whether a channel can be asked for; the rows that stand in every table cannot."""
    entry = entry_of(channel)
    return entry is None or bool(entry.build or entry.compose)


def verdict_sentences(rows: pd.DataFrame, most: int = 3) -> list[str]:
    """Returns what the verdict of each channel with a message rests on, the best channels first.

    Args:
        rows: of one task and pair.
        most: channels to speak of.
    """
    return [str(sentence) for sentence in best_judged(rows)["verdict_text"].head(most)]


def best_judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Selects the rows that have a verdict, the most accurate first."""
    judged: pd.DataFrame = rows[rows["verdict"] != ""].sort_values("accuracy", ascending=False, kind="stable")
    return judged
