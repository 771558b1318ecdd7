"""Unchanged builds are called a regression at most as often as the level says; the page's table is today's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness import cli
from harness.records import LoadedRun
from harness.records.schema import Sample
from harness.regression import Options, check
from harness.regression.power import (
    PAGE,
    PAIRS,
    Setting,
    draw_pairs,
    enough_unturned,
    questions_needed,
    regressions,
    share_caught,
    with_table,
)
from tests.support import regression_runs

N, MOST = 400, 0.035
CONDITIONS = [Setting(n=N, discordance=share, fact=fact) for share in (0.05, 0.1, 0.2) for fact in (1, 4)]


def named(setting: Setting) -> str:
    return f"{100 * setting.discordance:.0f}%, {'facts' if setting.fact > 1 else 'questions'}"


def variants(fact: int) -> list[tuple[Sample, Sample]]:
    """Every question answered wrong and right; neighbours belong to one fact."""
    return [
        tuple(
            regression_runs.sample(i, right, subject=f"fact{i // fact}" if fact > 1 else "") for right in (False, True)
        )  # type: ignore[misc]
        for i in range(N)
    ]


def pairs(setting: Setting, count: int, seed: int = 0) -> Iterator[tuple[LoadedRun, LoadedRun]]:
    """Records whose answers turned as `draw_pairs` says: first the units won, then those lost, then the others."""
    pool = variants(setting.fact)
    won, lost = (counts[:, 0, 0] for counts in draw_pairs(setting, count, seed))
    for gained, gone in zip(won * setting.fact, lost * setting.fact, strict=True):
        rest = np.arange(N) % 2 == 0
        before = np.where(np.arange(N) < gained, False, np.where(np.arange(N) < gained + gone, True, rest))
        after = np.where(np.arange(N) < gained, True, np.where(np.arange(N) < gained + gone, False, rest))
        sides = [[pool[i][int(right)] for i, right in enumerate(answers)] for answers in (before, after)]
        yield regression_runs.run(sides[0]), regression_runs.run(sides[1], identity="b" * 64)


@pytest.mark.parametrize("setting", CONDITIONS, ids=named)
def test_unchanged_builds_are_called_a_regression_at_most_at_the_level(setting: Setting) -> None:
    assert share_caught(setting, pairs=PAIRS) <= MOST


@pytest.mark.parametrize("loss", [0.0, 0.04])
@pytest.mark.parametrize("setting", CONDITIONS, ids=named)
def test_what_is_simulated_is_what_a_check_says(setting: Setting, loss: float) -> None:
    case = Setting(n=N, discordance=setting.discordance, loss=loss, fact=setting.fact)
    expected = regressions(case, *draw_pairs(case, 6, seed=0), Options())
    assert [check(*pair).exit_code == 1 for pair in pairs(case, 6)] == list(expected)


@pytest.mark.slow
@pytest.mark.parametrize("setting", CONDITIONS, ids=named)
def test_a_thousand_checks_of_unchanged_builds(setting: Setting) -> None:
    alarms = sum(check(*pair).exit_code == 1 for pair in pairs(setting, PAIRS, seed=1))
    assert alarms <= MOST * PAIRS


@pytest.mark.parametrize("count", [len(CONDITIONS), pytest.param(20, marks=pytest.mark.slow)])
def test_unchanged_builds_through_the_command_line(count: int, tmp_path: Path) -> None:
    """What is not shown is no regression either."""
    codes = []
    for number in range(count):
        (pair,) = pairs(CONDITIONS[number % len(CONDITIONS)], 1, seed=number)
        folders = [str(regression_runs.write(run, tmp_path / f"{number}-{side}")) for side, run in enumerate(pair)]
        codes.append(cli.main(["check", *folders, "--margin", "3"]))
    assert codes.count(1) == 0
    assert set(codes) <= {0, 3}


def test_questions_of_one_fact_are_one_observation() -> None:
    """Six facts lost and none won: p is 1/64, however many questions each has."""
    base = [regression_runs.sample(i, True, subject=f"fact{i // 20}") for i in range(N)]
    head = [regression_runs.sample(i, i >= 100, subject=f"fact{i // 20}") for i in range(N)]
    assert check(regression_runs.run(base), regression_runs.run(head, identity="b" * 64)).exit_code == 3


def test_more_questions_find_smaller_losses() -> None:
    case = Setting(n=N, discordance=0.05, loss=0.03)
    assert share_caught(case) < share_caught(Setting(n=2 * N, discordance=0.05, loss=0.03))
    enough = questions_needed(case)
    assert share_caught(Setting(n=enough, discordance=0.05, loss=0.03)) >= 0.8


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("size", [1, 3])
def test_a_run_without_a_turned_answer_is_shown_to_be_the_same_from_the_size_that_the_page_says(
    margin: float, size: int
) -> None:
    options = Options(margin_points=margin)
    enough = enough_unturned(options)
    for units, code in ((enough, 0), (enough - 4, 3)):
        one = [regression_runs.sample(i, i % 3 > 0, subject=f"fact{i // size}") for i in range(units * size)]
        pair = regression_runs.run(one), regression_runs.run(one, identity="b" * 64, packages={"torch": "1"})
        assert check(*pair, options=options).exit_code == code
    assert f" {enough} " in next(line for line in PAGE.read_text().splitlines() if "if no answer turned" in line)


def test_the_table_on_the_page_is_that_of_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page
