import numpy as np
import pytest
from scipy import stats

from harness.stats import effect_difference, mean_effect, paired_graded


def test_without_subjects_it_is_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 50)
    seen, expected = mean_effect(values), stats.ttest_1samp(values, 0)
    assert seen.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (seen.interval.low, seen.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_equal_subjects_give_the_t_test_of_their_means() -> None:
    values = np.random.default_rng(1).normal(0.2, 1, 60)
    seen = mean_effect(values, np.repeat(np.arange(12), 5))
    expected = stats.ttest_1samp(values.reshape(12, 5).mean(1), 0)
    assert seen.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    assert seen.subjects == 12


def test_graded_pairs_are_the_paired_t_test() -> None:
    a, b = np.random.default_rng(2).random((2, 40))
    assert paired_graded(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)


def test_the_difference_of_two_effects() -> None:
    matched_a, mean_a, matched_b, mean_b = (np.random.default_rng(3).random((4, 80)) < [[0.8], [0.3], [0.5], [0.4]]) * 1
    seen = effect_difference((matched_a, mean_a), (matched_b, mean_b))
    by_hand = (matched_a.mean() - mean_a.mean()) - (matched_b.mean() - mean_b.mean())
    assert seen.mean == pytest.approx(by_hand, abs=1e-12)
    assert seen.n == 80


def test_identical_effects_do_not_differ() -> None:
    same = ([1, 0, 1], [0, 0, 1])
    seen = effect_difference(same, same)
    assert (seen.mean, seen.p_value) == (0.0, 1.0)


def test_a_constant_difference_is_certain() -> None:
    assert mean_effect([0.5, 0.5, 0.5]).p_value == 0.0


@pytest.mark.parametrize(("a", "b", "message"), [([1.0], [0.5], "two values"), ([1.0, np.nan], [0.0, 0.0], "1 of 2")])
def test_bad_scores_are_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_graded(a, b)


def test_effects_over_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="two effects"):
        effect_difference(([1, 0], [0, 0]), ([1], [0]))
