import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from harness.stats import Interval, wilson
from harness.stats.intervals import normal_quantile, tango_bounds, tango_score


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 57), (500, 500), (0, 500), (263, 500), (2417, 5632)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(right: int, n: int, level: float) -> None:
    low, high = proportion_confint(right, n, alpha=1 - level, method="wilson")
    interval = wilson(right, n, level)
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize(("right", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="accuracy needs"):
        wilson(right, n)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        wilson(1, 2, level)


def profile_score(wins: int, losses: int, n: int, delta: float) -> float:
    """The score statistic with the nuisance share found by a numerical search of the likelihood."""

    def unlikely(loss: float) -> float:
        cells = np.array([loss + delta, loss, 1 - 2 * loss - delta])
        counts = np.array([wins, losses, n - wins - losses])
        return float(-(counts * np.log(cells)).sum())

    inside = (max(0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12)
    loss = minimize_scalar(unlikely, bounds=inside, method="bounded", options={"xatol": 1e-13}).x
    return float((wins - losses - n * delta) / np.sqrt(n * (2 * loss + delta - delta**2)))


@pytest.mark.parametrize(("wins", "losses", "n"), [(7, 2, 40), (1, 1, 10), (30, 12, 500), (2, 35, 60)])
def test_tango_bounds_are_where_the_likelihood_says(wins: int, losses: int, n: int) -> None:
    low, high = tango_bounds(wins, losses, n, 1.96)
    assert profile_score(wins, losses, n, float(low)) == pytest.approx(1.96, abs=1e-5)
    assert profile_score(wins, losses, n, float(high)) == pytest.approx(-1.96, abs=1e-5)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_tango_excludes_zero_exactly_when_uncorrected_mcnemar_rejects(wins: int, losses: int, same: int) -> None:
    n = wins + losses + same
    if wins + losses == 0:
        return
    low, high = tango_bounds(wins, losses, n, normal_quantile(0.95))
    p = mcnemar([[0, wins], [losses, 0]], exact=False, correction=False).pvalue
    if abs(p - 0.05) > 1e-6:
        assert Interval(float(low), float(high)).covers(0.0) == (p > 0.05)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_tango_is_antisymmetric_inside_its_range_and_holds_the_estimate(wins: int, losses: int, same: int) -> None:
    n = wins + losses + same
    if n == 0:
        return
    low, high = tango_bounds(wins, losses, n, 1.96)
    swapped = tango_bounds(losses, wins, n, 1.96)
    assert float(low) == pytest.approx(-float(swapped[1]), abs=1e-9)
    assert -1 <= low <= (wins - losses) / n <= high <= 1
    assert high > low


def test_tango_score_at_zero_is_mcnemar() -> None:
    score = tango_score(np.array(9.0), np.array(4.0), np.array(100.0), np.array(0.0))
    assert float(score) == pytest.approx(5 / np.sqrt(13), abs=1e-12)


def test_no_discordance_still_has_width() -> None:
    low, high = tango_bounds(0, 0, 100, 1.96)
    assert float(high) == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-9)
    assert float(low) == pytest.approx(-float(high), abs=1e-9)
