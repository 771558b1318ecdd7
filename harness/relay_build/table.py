"""The table of the relay world: trainings of all parts, averaged question by question and tested against chance.

Guarantees that every interval takes names (or facts, where facts are the test) as what was drawn, and that a row counts
as above chance by the same rule as all others: one-sided, with Holm's correction over all rows that hold no message.

Run ``python -m harness.relay_build.table RUN ... --measured ROWS.json ...``, one of each a training: a run of `relay`
and what `harness.relay_build.measure` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness.records.journal import load_run
from harness.relay_build.rows import FOLDER
from harness.stats import Interval, holm, repeated
from harness.stats.intervals import Floats
from harness.stats.paired import units_of
from harness.stats.repeated import FEWEST, Repeated

CHANCE = 0.25
INFORMED = ("C2C", "c2c", "T2T", "t2t", "place", "true note", "oracle", "untaught", "places")
"""How names of rows begin that are told something; all others, and all controls, are to be at chance."""
PARTIAL = ("t2t (shuffled_tokens)", "c2c (shuffled_tokens)")
"""Controls that leave a part of the message: in a note of one place the words in any order still name it."""
Rights = Mapping[str, Sequence[Sequence[bool]]]
"""Row -> right or wrong, `[trainings, questions]`."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: of the row.
        accuracy: mean, each training and 95% interval.
        p_above_chance: one-sided, over questions alone.
    """

    name: str
    accuracy: Repeated
    p_above_chance: float

    @property
    def uninformed(self) -> bool:
        """Whether it is to be at chance."""
        return self.name not in PARTIAL and (self.name.endswith(")") or not self.name.startswith(INFORMED))


def average_row(name: str, right: Sequence[Sequence[bool]], clusters: Sequence[str]) -> Row:
    """Averages one row over its trainings.

    Args:
        name: of the row.
        right: `[trainings, questions]`.
        clusters: of each question.
    """
    values = np.asarray(right, dtype=float)
    gains = values.mean(0) - CHANCE
    units = units_of(gains, np.asarray(clusters))
    error = float(np.sqrt(units.variance))
    mean = float(gains.mean())
    p = float(stats.t.sf(mean / error, units.freedom)) if error > 0 else float(mean <= 0)
    return Row(name, mean_of_trainings(values, clusters, lowest=0.0), p)


def mean_of_trainings(values: Floats, clusters: Sequence[str], lowest: float, level: float = 0.95) -> Repeated:
    """The mean over trainings; of fewer than three the interval allows for other questions alone.

    Args:
        values: `[trainings, questions]`.
        clusters: of each question.
        lowest: what a value can be.
        level: of the interval.
    """
    if len(values) >= FEWEST:
        return repeated(values, np.asarray(clusters), lowest=lowest, level=level)
    by_question = values.mean(0)
    units = units_of(by_question, np.asarray(clusters))
    half = float(stats.t.ppf((1 + level) / 2, units.freedom)) * float(np.sqrt(units.variance))
    mean, each = float(by_question.mean()), tuple(map(float, values.mean(1)))
    return Repeated(mean, each, len(by_question), Interval(max(mean - half, lowest), min(mean + half, 1.0)))


def holm_by_name(rows: Sequence[Row]) -> dict[str, float]:
    """Holm's p-values of the rows that are to be at chance, by name."""
    tested = [row for row in rows if row.uninformed]
    return dict(zip((row.name for row in tested), holm([row.p_above_chance for row in tested]), strict=True))


def equivalence(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], clusters: Sequence[str]) -> Repeated:
    """The paired difference over all trainings with its 90% interval: inside a margin, two one-sided tests pass."""
    gains = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return mean_of_trainings(gains, clusters, lowest=-1.0, level=0.9)


def run_rights(folders: Iterable[Path], task: str) -> Rights:
    """Every arm of several runs on one task, by ``channel`` or ``channel (control)``."""
    found: dict[str, list[list[bool]]] = {}
    for folder in folders:
        samples = sorted((s for s in load_run(folder).samples if s.task == task), key=lambda s: s.position)
        arms: dict[str, list[bool]] = {}
        for sample in samples:
            name = f"{sample.channel} ({sample.control})" if sample.control else sample.channel
            arms.setdefault(name, []).append(bool(sample.correct))
        for name, right in arms.items():
            found.setdefault(name, []).append(right)
    return found


def measured_rights(paths: Iterable[Path], form: str) -> Rights:
    """Every row of several `harness.relay_build.measure` files in one form."""
    found: dict[str, list[list[bool]]] = {}
    for path in paths:
        for name, right in json.loads(path.read_text(encoding="utf-8"))["rows"][form].items():
            found.setdefault(name, []).append(right)
    return found


def clusters_of(form: str, split: str) -> list[str]:
    """The cluster of each committed question, in their order."""
    documents: list[dict[str, Any]] = [
        json.loads(line) for line in (FOLDER / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [str(d["subject"]) for d in documents if (d["form"], d["split"]) == (form, split)]


def split_of(name: str) -> str:
    """The split that a row asks about."""
    split = name.partition(":")[0]
    return split if split in ("untaught", "places") and ":" in name else "taught"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    adjusted = holm_by_name(rows)
    lines = ["| row | n | each training | mean | above chance |", "|---|---|---|---|---|"]
    for row in rows:
        each = ", ".join(f"{100 * value:.1f}" for value in row.accuracy.each)
        interval = row.accuracy.interval
        bounds = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else ""
        p = f"p = {adjusted[row.name]:.2f}" if row.name in adjusted else ""
        lines.append(f"| {row.name} | {row.accuracy.n} | {each} | {100 * row.accuracy.mean:.1f}{bounds} | {p} |")
    return "\n".join(lines)


def table_of(form: str, runs: Sequence[Path], measured: Sequence[Path]) -> str:
    """Everything about one form."""
    rights = {**run_rights(runs, f"relay_{form}"), **measured_rights(measured, form)}
    rows = [average_row(name, right, clusters_of(form, split_of(name))) for name, right in rights.items()]
    same = equivalence(rights["untaught: C2C"], rights["untaught: place written"], clusters_of(form, "untaught"))
    bounds = f" [{100 * same.interval.low:.1f}, {100 * same.interval.high:.1f}]" if same.interval else ""
    return f"{markdown(rows)}\n\nUntaught facts, C2C - place written: {100 * same.mean:+.1f}{bounds} (90% interval).\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints the table of the relay world over several trainings.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--measured", nargs="+", type=Path, required=True)
    given = parser.parse_args()
    for asked_form in ("one", "crowd"):
        print(f"### {asked_form}\n\n{table_of(asked_form, given.runs, given.measured)}")
