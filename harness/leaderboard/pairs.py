"""The rows of one pair of models on one task: of several runs, one row an arm.

Guarantees that weights of another recipe never stand in for averaged ones, and that a verdict is the gravest of the
runs that judged the arm by as many rivals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from harness.leaderboard.record_format import Entry
from harness.leaderboard.trainings import TrainingsRow, recipe_of
from harness.results.comparisons import ADAPTS, COMMUNICATES, HARMS, NOT_RESOLVED
from harness.results.frame import best_judged
from harness.results.grouping import RECEIVER

_GRAVEST_FIRST = (HARMS, NOT_RESOLVED, ADAPTS, COMMUNICATES)

_PAIR = ["receiver", "sharers"]


class Pair(NamedTuple):
    """The rows of one pair on one task.

    Attributes:
        rows: one an arm and variant.
        every: one a run, arm and variant.
        trainings: quantities over several trainings.
    """

    receiver: str
    sharers: str
    rows: pd.DataFrame
    every: pd.DataFrame
    trainings: list[TrainingsRow]


def with_recipes(rows: pd.DataFrame, entries: Iterable[Entry]) -> pd.DataFrame:
    """Adds to rows of `harness.leaderboard.rows.board_frame` the column `recipe`, by which `model_pairs` goes."""
    runs = {entry.record.run.run_id: entry.record.run for entry in entries}
    arms = zip(rows["run_id"], rows["channel"], rows["control"], strict=True)
    told: pd.DataFrame = rows.assign(
        recipe=[recipe_of(runs[run], (channel, control)) for run, channel, control in arms]
    )
    return told


def model_pairs(rows: pd.DataFrame, trainings: Sequence[TrainingsRow] = ()) -> Iterator[Pair]:
    """Yields the pairs of one task's rows, by name."""
    for (receiver, sharers), own in rows.groupby(_PAIR, sort=True):
        averaged = [one for one in trainings if (one.receiver, " + ".join(one.sharers)) == (receiver, sharers)]
        yield Pair(str(receiver), str(sharers), _pooled(own, averaged), own, averaged)


def resolved_first(pairs: Iterable[Pair]) -> list[Pair]:
    """Puts pairs whose best channel has a verdict that is resolved before others, otherwise as they are."""
    return sorted(pairs, key=lambda pair: _best_verdict(pair) in ("", NOT_RESOLVED))


def _best_verdict(pair: Pair) -> str:
    """The verdict of the most accurate channel with a message; empty where there is none."""
    return next(iter(best_judged(pair.rows)["verdict"]), "")


def _pooled(rows: pd.DataFrame, trainings: Sequence[TrainingsRow]) -> pd.DataFrame:
    """Takes the largest run of each arm, of several the one that judged it by most rivals, then the latest.

    Weights of another recipe are another thing: where trainings are averaged, theirs are the only runs that count.
    """
    if not rows.duplicated(["arm", "variant"]).any():
        alone: pd.DataFrame = rows.assign(trainings=1)
        return alone
    averaged = {(one.quantity.arm, one.recipe) for one in trainings if one.quantity.base is None}
    arms = zip(zip(rows["channel"], rows["control"], strict=True), rows["recipe"], strict=True)
    asked = rows.assign(
        rivals=-rows["verdict_text"].map(_missing), trainings=1, averaged=[arm in averaged for arm in arms]
    )
    in_order = asked.sort_values(["averaged", "n", "rivals", "started_at"], kind="stable")
    best = in_order.drop_duplicates(["arm", "variant"], keep="last").sort_index()
    columns = [str(name) for name in best.columns if name not in ("rivals", "averaged")]
    listed = [_row({str(name): row[name] for name in row}, asked, trainings) for row in best.to_dict("records")]
    pooled: pd.DataFrame = pd.DataFrame(listed, columns=columns).astype(best[columns].dtypes.to_dict())
    return pooled


def _row(row: dict[str, Any], asked: pd.DataFrame, trainings: Sequence[TrainingsRow]) -> dict[str, Any]:
    same = (asked["arm"] == row["arm"]) & (asked["variant"] == row["variant"]) & (asked["recipe"] == row["recipe"])
    judged = asked[same & (asked["verdict"] != "")]
    averages = _averages(row, trainings)
    return {**row, **_gravest(judged, averages.get("trainings", 1)), **averages}


def _missing(sentence: str) -> int:
    """Rivals that a verdict's sentence names as not run."""
    _, found, names = sentence.rstrip(".").partition("not run: ")
    return len(names.split(", ")) if found else 0


def _gravest(judged: pd.DataFrame, trainings: int) -> dict[str, Any]:
    """Takes the gravest verdict of the runs that were judged by as many rivals; its figures are of that run alone."""
    if judged.empty:
        return {}
    runs = judged[judged["rivals"] == judged["rivals"].max()].to_dict("records")
    gravest = min(runs, key=lambda run: _GRAVEST_FIRST.index(run["verdict"]))
    alone = f"one of {trainings} trainings: " if trainings > 1 else ""
    return {"verdict": gravest["verdict"], "verdict_text": f"{alone}{gravest['verdict_text']}"}


def _averages(row: dict[str, Any], trainings: Sequence[TrainingsRow]) -> dict[str, Any]:
    averages: dict[str, Any] = {}
    for one in trainings:
        if (one.quantity.arm, one.recipe) != ((row["channel"], row["control"]), row["recipe"]):
            continue
        if one.quantity.base not in (None, RECEIVER):
            continue
        name = "accuracy" if one.quantity.base is None else "to_receiver"
        low, high = (one.found.interval.low, one.found.interval.high) if one.found.interval else (math.nan, math.nan)
        averages |= {name: one.found.mean, f"{name}_low": low, f"{name}_high": high, "trainings": len(one.weights)}
    return averages
