import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from harness.stats import (
    NOT_RESOLVED,
    Interval,
    detectable_effect,
    holm,
    mcnemar_p,
    mcnemar_power,
    mean_effect,
    minimum_detectable_effect,
    paired,
    questions_needed,
    verdict,
)
from harness.stats.repeated import MeanEffect


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


def enumerated_power(n: int, wins: float, losses: float, alpha: float) -> float:
    """Power by going through every pair of counts."""
    total = 0.0
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            if mcnemar_p(won, lost) <= alpha:
                total += multinomial.pmf([won, lost, n - won - lost], n, [wins, losses, 1 - wins - losses])
    return total


@pytest.mark.parametrize(
    ("n", "wins", "losses", "alpha"), [(12, 0.6, 0.1, 0.05), (25, 0.3, 0.05, 0.01), (9, 1.0, 0, 0.05)]
)
def test_exact_power_is_that_of_every_outcome(n: int, wins: float, losses: float, alpha: float) -> None:
    assert mcnemar_power(n, wins, losses, alpha) == pytest.approx(enumerated_power(n, wins, losses, alpha), abs=1e-8)


def test_too_few_questions_find_nothing() -> None:
    assert mcnemar_power(5, 1.0, 0.0) == 0
    assert mcnemar_power(6, 1.0, 0.0) == pytest.approx(1)
    assert mcnemar_power(6, 1.0, 0.0, alpha=0.05 / 4) == 0
    assert mcnemar_power(100, 0.0, 0.0) == 0
    assert detectable_effect(5, 1.0) is None


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 20])
@pytest.mark.parametrize(("n", "discordance"), [(500, 0.2), (100, 0.03), (60, 0.0), (30, 1.0)])
def test_what_is_detectable_is_found_in_four_of_five_and_a_step_less_is_not(
    n: int, discordance: float, alpha: float
) -> None:
    found = detectable_effect(n, discordance, alpha)
    assert found is not None
    for difference, enough in ((found, True), (found - 1e-4, False)):
        share = max(discordance, difference)
        power = mcnemar_power(n, (share + difference) / 2, (share - difference) / 2, alpha)
        assert (power >= 0.8) is enough


def test_below_eight_discordant_questions_a_difference_has_to_make_its_own() -> None:
    seen = paired([1] * 3 + [0] * 97, [0] * 100)
    assert seen.detectable is not None
    assert seen.detectable > 6 / 100  # five questions have no p below 0.05


def test_a_stricter_level_finds_less() -> None:
    seen = paired([1] * 40 + [0] * 460, [0] * 480 + [1] * 20)
    several = [seen.detectable_at(0.05 / family) for family in (1, 5, 20)]
    assert several == sorted(several)
    assert len(set(several)) == 3


@pytest.mark.parametrize("bad", [{"n": 0}, {"discordance": 1.5}, {"alpha": 0.0}, {"power": 1.0}])
def test_impossible_designs_have_no_detectable_effect(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no power"):
        detectable_effect(**({"n": 100, "discordance": 0.2} | bad))


@pytest.mark.parametrize("difference", [0.03, 0.05, 0.3])
def test_so_many_questions_find_a_difference_and_fewer_do_not(difference: float) -> None:
    n = questions_needed(difference, 0.2)
    share = max(0.2, difference)

    def power(n: int) -> float:
        return mcnemar_power(n, (share + difference) / 2, (share - difference) / 2)

    assert power(n) >= 0.8 > power(n - 1)
    assert questions_needed(difference, 0.2, alpha=0.01) > n


def test_no_number_of_questions_finds_nothing() -> None:
    with pytest.raises(ValueError, match="difference of 0"):
        questions_needed(0.0, 0.2)
