"""The promise of the intervals, simulated: 95% intervals cover between 93% and 97% of the time."""

import numpy as np
import pytest

from harness.stats import paired, score
from tests.stats import simulate_coverage as simulate

GRID = [(n, p) for n in (200, 1000) for p in (0.05, 0.5, 0.95)]
REPETITIONS = 4000  # standard error 0.35 points


def promised(coverage: float) -> bool:
    return 0.93 <= coverage <= 0.97


@pytest.mark.parametrize(("n", "p"), GRID)
def test_single(n: int, p: float) -> None:
    assert promised(simulate.single_coverage(n, p))


@pytest.mark.parametrize(("n", "p"), GRID)
@pytest.mark.parametrize("gap", [0.0, 0.04])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_paired(n: int, p: float, gap: float, correlation: float) -> None:
    assert promised(simulate.paired_coverage(n, p, gap, REPETITIONS, correlation))


@pytest.mark.parametrize(("n", "p"), GRID)
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_clustered(n: int, p: float, uneven: bool, rho: float) -> None:
    sizes = simulate.subject_sizes(n, simulate.SUBJECTS, uneven)
    assert promised(simulate.clustered_coverage((p, 0.0), sizes, rho, REPETITIONS))
    assert promised(simulate.clustered_coverage(simulate.shares(p), sizes, rho, REPETITIONS))


def test_ignoring_subjects_would_break_the_promise() -> None:
    sizes = simulate.subject_sizes(1000, simulate.SUBJECTS, False)
    right = simulate.draw((0.5, 0.0), sizes, 0.05, REPETITIONS).wins.sum(-1)
    assert simulate.covered(*simulate.wilson_bounds(right, 1000, simulate.Z), 0.5) < 0.9


def test_the_test_over_subjects_keeps_its_level() -> None:
    sizes = simulate.subject_sizes(1000, simulate.SUBJECTS, True)
    assert simulate.sign_flip_rejections(0.5, sizes, 0.05, 400) < 0.08


def test_what_is_simulated_is_what_is_reported() -> None:
    sizes = simulate.subject_sizes(200, simulate.SUBJECTS, True)
    pair = simulate.draw(simulate.shares(0.5), sizes, 0.05, 1)
    first, second, subject = simulate.expand(pair, 0)
    seen = paired(first, second, subject).interval
    assert (seen.low, seen.high) == pytest.approx(np.ravel(simulate.clustered_bounds(pair, False)), abs=1e-12)

    one = simulate.draw((0.5, 0.0), sizes, 0.05, 1)
    right, _, subject = simulate.expand(one, 0)
    alone = score(right, subject).interval
    assert (alone.low, alone.high) == pytest.approx(np.ravel(simulate.clustered_bounds(one, True)), abs=1e-12)


@pytest.mark.parametrize("halves", [(0.9, 0.3), (0.6, 0.5)])
def test_strata(halves: tuple[float, float]) -> None:
    assert promised(simulate.strata_coverage(halves, 96, 0.15, REPETITIONS, known=True))


def test_ignoring_strata_would_be_wider_than_promised() -> None:
    assert simulate.strata_coverage((0.9, 0.3), 96, 0.15, REPETITIONS, known=False) > 0.97


def test_rounds_do_not_break_the_interval_of_a_speed_up() -> None:
    assert simulate.speed_up_coverage(20, 10, 300) > 0.9
    assert simulate.speed_up_coverage(20, 10, 300, by_question=False) < 0.75
