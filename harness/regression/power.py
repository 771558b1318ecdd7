"""How often a check calls a loss a regression, and an unchanged build one: simulated, seeded, as a table for the docs.

`python -m harness.regression.power [docs/ci.md]` writes the table between its marks in that page; a test finds a page
that was not regenerated. Answers are drawn as numbers of units that turned, so that a thousand checks cost
milliseconds; another test holds single draws against real checks. A unit is one question, or one fact whose questions
turn together.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.records.files import write_atomic
from harness.regression.verdicts import Options
from harness.stats.paired import quantile

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
BEGIN, END = "<!-- power: begin -->", "<!-- power: end -->"
PAIRS = 1000
SEED = 26
_GRID = 50  # questions
_ENOUGH = 0.8

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What is drawn.

    Attributes:
        n: Questions in all tasks together.
        discordance: Share of questions whose answer turned from right to wrong or back, in every arm.
        loss: Share of right answers that the first arm loses; the others lose nothing.
        arms: Arms of the check.
        tasks: Tasks of one group: each arm is tested in every one and over all of them.
        fact: Questions that turn together.
    """

    n: int
    discordance: float
    loss: float = 0.0
    arms: int = 1
    tasks: int = 1
    fact: int = 1


SHIPPED = Setting(n=800, discordance=0.05, arms=9, tasks=2, fact=4)


def draw_pairs(setting: Setting, pairs: int, seed: int) -> tuple[Counts, Counts]:
    """Returns units won and units lost, each ``[pairs, arms, tasks]``."""
    losses = np.zeros(setting.arms)
    losses[0] = setting.loss
    shares = np.stack([(setting.discordance - losses) / 2, (setting.discordance + losses) / 2], axis=-1)
    units = setting.n // setting.tasks // setting.fact
    probabilities = np.concatenate([shares, 1 - shares.sum(-1, keepdims=True)], axis=-1)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(units, probabilities[None, :, None], size=(pairs, setting.arms, setting.tasks))
    return counts[..., 0], counts[..., 1]


def regressions(setting: Setting, won: Counts, lost: Counts, options: Options) -> NDArray[np.bool_]:
    """Returns which pairs a check calls a regression, ``[pairs]``, as `harness.regression.accuracy_check` does."""
    if setting.tasks > 1:
        won, lost = (np.concatenate([side, side.sum(-1, keepdims=True)], axis=-1) for side in (won, lost))
    units = np.full(won.shape[-1], setting.n // setting.tasks // setting.fact)
    units[setting.tasks :] *= setting.tasks
    turned = won + lost
    p = np.where(lost > won, special.bdtrc(lost - 1, turned, 0.5), 1.0)
    able = 0.5**turned < options.alpha
    beyond = (lost - won) / units > options.margin
    flat = (len(won), -1)
    adjusted = _holm(np.where(able, p, 1.0).reshape(flat), able.reshape(flat).sum(-1))
    return np.asarray(((adjusted < options.alpha) & beyond.reshape(flat)).any(-1))


def _holm(p: NDArray[np.float64], able: Counts) -> NDArray[np.float64]:
    """Holm's p-values along the last axis, where only so many of the tests of each row count."""
    order = np.argsort(p, axis=-1)
    left = np.maximum(able[:, None] - np.arange(p.shape[-1]), 1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * left, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), axis=-1)
    return adjusted


def share_caught(setting: Setting, options: Options | None = None, pairs: int = PAIRS, seed: int = SEED) -> float:
    """Returns the share of pairs that are called a regression."""
    return float(regressions(setting, *draw_pairs(setting, pairs, seed), options or Options()).mean())


def questions_needed(setting: Setting, options: Options | None = None) -> int:
    """Returns how many questions find the loss in 80% of the pairs, in steps of 50."""
    low, high = 1, 1000
    while high - low > 1:
        middle = (low + high) // 2
        enough = share_caught(replace(setting, n=middle * _GRID), options) >= _ENOUGH
        low, high = (low, middle) if enough else (middle, high)
    return high * _GRID


def enough_unturned(options: Options) -> int:
    """Returns how many units show a run to be the same within the margin where no answer turned.

    The bound of a loss that could hide is then z^2 / (n + z^2), with Student's quantile for z as where questions go
    together.
    """
    odds = (1 - options.margin) / options.margin
    return next(n for n in count(2) if quantile(2 * options.level - 1, n) ** 2 * odds < n)


def table() -> str:
    """Returns what the page says of power, as Markdown."""
    columns = [(0.05, 0.03), (0.10, 0.03), (0.20, 0.03), (0.10, 0.05), (0.20, 0.05)]
    heads = [f"-{100 * loss:.0f} at {100 * share:.0f}%" for share, loss in columns]
    kinds = [
        ("one arm, one task, single questions", Setting(0, 0.0)),
        ("one arm, one task, facts of 4", Setting(0, 0.0, fact=4)),
        ("workflow, single questions", replace(SHIPPED, fact=1)),
        ("workflow, facts of 4", SHIPPED),
    ]
    rows = [["checked", "n", *heads], ["---"] * (len(heads) + 2)]
    for name, kind in kinds:
        for n in (400, SHIPPED.n, 1600, 3200):
            cells = [share_caught(replace(kind, n=n, discordance=share, loss=loss)) for share, loss in columns]
            rows.append([name, str(n), *(f"{100 * cell:.0f}%" for cell in cells)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", _enough(kinds), "", _alarms()])


def _enough(kinds: list[tuple[str, Setting]]) -> str:
    options = Options()
    found = (f"{questions_needed(replace(kind, discordance=0.05, loss=0.03)):,} ({name})" for name, kind in kinds)
    return (
        f"With a margin of {options.margin_points:g} point and a one-sided level of {100 * options.alpha:g}%, -3 "
        f"points at 5% are found in 80% of the checks with this many questions: {'; '.join(found)}."
    )


def _alarms() -> str:
    cases = [
        (share, share_caught(Setting(n=400, discordance=share, fact=fact)), fact)
        for fact in (1, 4)
        for share in (0.05, 0.1, 0.2)
    ]
    single, facts = (
        ", ".join(f"{100 * alarm:.1f}% ({100 * share:.0f}%)" for share, alarm, size in cases if size == fact)
        for fact in (1, 4)
    )
    return (
        f"Unchanged builds, 400 questions, are called a regression in {single} of the checks where single questions "
        f"turn, in {facts} where whole facts do; the share that turned is in brackets."
    )


def with_table(page: str) -> str:
    """Returns the page with the table of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def write(path: Path = PAGE) -> None:
    """Writes the table into a page."""
    write_atomic(path, with_table(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
