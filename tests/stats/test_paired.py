import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from harness.stats import paired, score, wilson
from harness.stats.paired import sign_flip_p


def vectors(both: int, wins: int, losses: int, neither: int) -> tuple[list[int], list[int]]:
    first = [1] * (both + wins) + [0] * (losses + neither)
    second = [1] * both + [0] * wins + [1] * losses + [0] * neither
    return first, second


@pytest.mark.parametrize("table", [(10, 9, 3, 20), (0, 1, 0, 0), (5, 0, 12, 8), (40, 17, 17, 40), (1, 0, 0, 3)])
def test_counts_and_exact_p_are_those_of_statsmodels(table: tuple[int, int, int, int]) -> None:
    both, wins, losses, neither = table
    seen = paired(*vectors(*table), resamples=200)
    assert (seen.wins, seen.losses, seen.n) == (wins, losses, sum(table))
    assert seen.difference == pytest.approx((wins - losses) / sum(table))
    assert seen.discordance == pytest.approx((wins + losses) / sum(table))
    expected = 1.0 if wins + losses == 0 else mcnemar([[both, wins], [losses, neither]], exact=True).pvalue
    assert seen.mcnemar_p == pytest.approx(expected, abs=1e-9)
    assert seen.p_value == seen.mcnemar_p


def test_the_exact_p_counts_coin_tosses() -> None:
    seen = paired(*vectors(100, 20, 5, 75), resamples=200)
    assert seen.mcnemar_p == pytest.approx(2 * sum(math.comb(25, k) for k in range(6)) / 2**25, abs=1e-12)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    rng = np.random.default_rng(3)
    a, b, subject = rng.random(300) < 0.5, rng.random(300) < 0.4, rng.integers(0, 20, 300)
    assert paired(a, b, subject, seed=1) == paired(a, b, subject, seed=1)
    assert paired(a, b, subject, seed=1).bootstrap != paired(a, b, subject, seed=2).bootstrap
    assert score(a, subject, seed=1) == score(a, subject, seed=1)


def test_swapping_the_channels_swaps_the_signs() -> None:
    a, b = vectors(30, 12, 4, 54)
    one, other = paired(a, b), paired(b, a)
    assert one.difference == -other.difference
    assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-12)


def test_subjects_that_agree_within_widen_the_interval() -> None:
    a = np.repeat(np.arange(20) % 2, 10)
    b = np.repeat((np.arange(20) // 2) % 2, 10)
    subject = [f"subject {i // 10}" for i in range(200)]
    seen = paired(a, b, subject)
    assert seen.design_effect == pytest.approx(10, rel=0.1)
    assert seen.subjects == 20
    plain = paired(a, b)
    assert seen.interval.high - seen.interval.low > 2 * (plain.interval.high - plain.interval.low)


def test_whole_subjects_that_flip_are_not_many_independent_questions() -> None:
    a = np.repeat([1, 1, 1, 0, 1], 40)
    b = 1 - a
    subject = np.repeat(np.arange(5), 40)
    seen = paired(a, b, subject)
    assert seen.mcnemar_p < 1e-9
    assert seen.p_value == pytest.approx(0.375)  # 12 of 32 sign patterns are as extreme


@pytest.mark.parametrize("table", [(3, 9, 2, 6), (0, 1, 0, 3), (10, 90, 5, 200), (4, 6, 6, 4), (9, 0, 0, 1)])
def test_one_question_a_subject_is_mcnemar_again(table: tuple[int, int, int, int]) -> None:
    a, b = vectors(*table)
    seen = paired(a, b, range(len(a)), resamples=1)
    assert seen.p_value == pytest.approx(seen.mcnemar_p, rel=1e-9)


@pytest.mark.parametrize("sums", [[3, -1, 2, 2, 0, -1, 4], [1, 1, -1], [2, -2], [5], [7, 1, 1, 1, -2, 3, -4, 6]])
def test_the_test_over_subjects_counts_every_pattern_of_signs(sums: list[int]) -> None:
    patterns = np.array(list(itertools.product((-1, 1), repeat=len(sums)))) @ np.array(sums)
    expected = np.mean(np.abs(patterns) >= abs(sum(sums)))
    assert sign_flip_p(np.array(sums, float), 0, 1) == pytest.approx(expected, rel=1e-12)
    assert sign_flip_p(np.array(sums) * 0.3, 0) == pytest.approx(expected, rel=1e-12)


def test_the_test_over_subjects_has_no_smallest_value() -> None:
    a, subject = np.ones(400), np.arange(400) % 96
    assert paired(a, 1 - a, subject, resamples=1).p_value == pytest.approx(2 * 0.5**96)


def test_drawn_signs_stand_in_where_graded_sums_have_too_many_patterns() -> None:
    sums = np.random.default_rng(0).normal(0.3, 1, 60)
    assert sign_flip_p(sums, 1) == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, abs=0.02)


def test_answers_that_are_all_the_same_say_as_much_as_one_a_subject() -> None:
    facts = np.arange(400) % 96
    right = score([1] * 400, facts)
    assert right.interval.low == pytest.approx(0.9606, abs=1e-4)  # Wilson's at 96 of 96, Student's quantile
    assert score([0] * 400, facts).interval.high == pytest.approx(1 - right.interval.low)
    for alike in ([1] * 400, [0] * 400):
        same = paired(alike, alike, facts).interval
        assert same.high == pytest.approx(1 - right.interval.low, abs=1e-4)
    assert paired([1] * 400, [0] * 400, facts).interval.low == pytest.approx(
        score([1] * 96, range(96)).interval.low, abs=0.05
    )


def test_each_subject_of_one_mind_counts_once_whatever_the_variance_between_parts() -> None:
    a = np.repeat([1, 0], 400)
    seen = score(a, np.arange(800) // 4, strata=np.repeat(["first", "second"], 400))
    assert seen.design_effect == 4


def test_subjects_with_equal_shares_are_independent_questions() -> None:
    assert score([1, 0] * 40, np.arange(80) // 4).design_effect == 1


def halves(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All right in a half, a quarter in the other, by facts of four questions."""
    rng = np.random.default_rng(seed)
    facts = np.arange(800) // 4
    easy = np.arange(800) < 400
    return np.where(easy, True, (rng.random(200) < 0.25)[facts]), facts, np.where(easy, "easy", "hard")


def test_strata_take_out_what_differs_between_parts_of_fixed_size() -> None:
    right, facts, half = halves()
    plain, stratified = score(right, facts).interval, score(right, facts, strata=half).interval
    hard = right[half == "hard"].reshape(100, 4).mean(1)
    error = 0.5 * hard.std(ddof=1) / 10
    assert stratified.high - stratified.low == pytest.approx(2 * stats.t.ppf(0.975, 198) * error, rel=0.02)
    assert stratified.high - stratified.low < 0.7 * (plain.high - plain.low)


def test_strata_enter_paired_differences_and_bootstraps() -> None:
    right, facts, half = halves()
    other = np.where(half == "easy", False, right)
    plain, stratified = paired(right, other, facts), paired(right, other, facts, strata=half)
    assert stratified.difference == plain.difference == 0.5
    assert stratified.bootstrap.low == stratified.bootstrap.high == 0.5
    assert stratified.interval.high - stratified.interval.low <= plain.interval.high - plain.interval.low


def test_one_stratum_and_strata_of_single_units_change_nothing() -> None:
    right, facts, _ = halves()
    assert score(right, facts, strata=["all"] * 800) == score(right, facts)
    assert score(right, facts, strata=facts) == score(right, facts)


def test_strata_that_do_not_fit_the_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="strata"):
        score([1, 0], strata=["a"])


def test_equivalence_is_two_one_sided_tests() -> None:
    a = np.arange(4000) % 2
    assert paired(a, a).same_within(0.03)
    assert not paired(a[:40], a[:40]).same_within(0.03)
    worse = np.where(np.arange(4000) % 40 == 1, 0, a)  # 2.5 points below
    assert not paired(worse, a).same_within(0.025)
    assert paired(worse, a).same_within(0.04)
    inner, outer = paired(worse, a).inner, paired(worse, a).interval
    assert outer.low < inner.low < inner.high < outer.high


def test_one_subject_alone_counts_as_independent_and_says_so() -> None:
    a, b = vectors(30, 12, 4, 54)
    seen = paired(a, b, ["physics"] * 100)
    assert seen.subjects == 1
    assert seen.interval == paired(a, b).interval


@pytest.mark.parametrize("table", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 5, 0, 0), (0, 0, 5, 0), (1, 0, 0, 0), (0, 1, 0, 0)])
@pytest.mark.parametrize("clustered", [False, True])
def test_degenerate_answers_give_finite_bounds_around_the_estimate(
    table: tuple[int, int, int, int], clustered: bool
) -> None:
    a, b = vectors(*table)
    seen = paired(a, b, range(len(a)) if clustered else None)
    assert -1 <= seen.interval.low <= seen.difference <= seen.interval.high <= 1
    assert seen.interval.low < seen.interval.high


def test_what_too_few_questions_could_find_is_unknown() -> None:
    assert paired([1, 0], [1, 0]).detectable is None
    assert paired([1, 0], [1, 1]).detectable is None  # no p of two questions is below 0.05
    assert paired([1] * 40, [1] * 40).detectable is not None


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "non-empty"),
        ([1, 0], [1], "2 values against 1"),
        ([1, float("nan"), float("nan")], [1, 1, 1], "2 of 3 are NaN"),
        ([1, 0.5], [1, 1], "neither 0 nor 1"),
        ([[1], [0]], [1, 1], "shape"),
    ],
)
def test_bad_vectors_are_refused_with_a_count(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired(a, b)


def test_bad_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters"):
        paired([1, 0], [0, 1], ["x"])


def test_a_single_score_is_wilson_without_subjects() -> None:
    seen = score([True, False, True, True])
    assert seen.accuracy == 0.75
    assert seen.interval == wilson(3, 4)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("n", [1, 7])
def test_all_right_and_all_wrong(value: int, n: int) -> None:
    seen = score([value] * n, range(n))
    assert seen.accuracy == value
    assert 0 <= seen.interval.low < seen.interval.high <= 1
    assert seen.interval.covers(value)
    assert seen.bootstrap.low == seen.bootstrap.high == value


def test_the_bootstrap_agrees_with_drawing_every_question() -> None:
    rng = np.random.default_rng(0)
    a, b, subject = rng.random(400) < 0.6, rng.random(400) < 0.5, rng.integers(0, 30, 400)
    gains = a.astype(float) - b
    plain = [gains[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    seen = paired(a, b).bootstrap
    assert (seen.low, seen.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    groups = [gains[subject == code] for code in range(30)]
    whole = [np.concatenate([groups[i] for i in rng.integers(0, 30, 30)]).mean() for _ in range(4000)]
    seen = paired(a, b, subject).bootstrap
    assert (seen.low, seen.high) == pytest.approx(np.quantile(whole, [0.025, 0.975]), abs=0.006)
