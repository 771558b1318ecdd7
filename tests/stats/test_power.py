import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from harness.stats import NOT_RESOLVED, Interval, holm, mean_effect, minimum_detectable_effect, paired, verdict
from harness.stats.graded import MeanEffect


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-9)


@pytest.mark.parametrize(
    ("p_values", "message"), [([], "non-empty"), ([float("nan"), 0.1], "1 of 2"), ([1.2], "0 to 1")]
)
def test_holm_refuses_what_is_no_family(p_values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        holm(p_values)


@pytest.mark.parametrize(("n", "points"), [(500, 5.6), (1150, 3.7), (5632, 1.7)])
def test_detectable_effects_of_the_benchmarks(n: int, points: float) -> None:
    assert round(100 * minimum_detectable_effect(n, 0.2), 1) == points


@pytest.mark.parametrize(("n", "discordance", "power"), [(500, 0.2, 0.8), (1150, 0.3, 0.9), (60, 0.5, 0.8)])
def test_power_is_that_of_statsmodels(n: int, discordance: float, power: float) -> None:
    scaled = minimum_detectable_effect(n, discordance, power) / np.sqrt(discordance)
    found = NormalIndPower(ddof=0).power(scaled, nobs1=n, alpha=0.025, ratio=0, alternative="larger")
    assert found == pytest.approx(power, abs=1e-9)


def test_subjects_cost_power_like_fewer_questions() -> None:
    assert minimum_detectable_effect(1000, 0.2, design_effect=2) == pytest.approx(minimum_detectable_effect(500, 0.2))


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"discordance": 1.5}, {"power": 1.0}, {"design_effect": 0.0}, {"level": 1.0}]
)
def test_impossible_designs_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"power|level"):
        minimum_detectable_effect(**({"n": 100, "discordance": 0.2} | bad))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.1, 0.1, NOT_RESOLVED), (0.0, 0.1, NOT_RESOLVED), (0.01, 0.1, "higher"), (-0.2, -0.1, "lower")],
)
def test_verdicts(low: float, high: float, word: str) -> None:
    assert verdict(MeanEffect((low + high) / 2, 10, Interval(low, high), 0.5, 0)) == word


def test_verdicts_read_both_kinds_of_effect() -> None:
    assert verdict(paired([1] * 30, [0] * 30)) == "higher"
    assert verdict(mean_effect([0.1, -0.1, 0.2, -0.2])) == NOT_RESOLVED
