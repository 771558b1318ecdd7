import numpy as np
import pytest
from scipy import stats as laws

from harness.stats import repeated, repeated_difference
from tests.stats.simulate_trainings import coverage


def answers(trainings: int = 3, n: int = 40, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((trainings, n)) < 0.4).astype(float)


def test_mean_and_each_training_are_plain_averages() -> None:
    table = answers()
    found = repeated(table)
    assert found.mean == pytest.approx(table.mean())
    assert found.each == pytest.approx(table.mean(1))
    assert found.n == 40


def test_trainings_that_agree_leave_students_interval_over_questions() -> None:
    row = answers(1)[0]
    found = repeated(np.stack([row] * 3)).interval
    expected = laws.t.interval(0.95, len(row) - 1, row.mean(), laws.sem(row))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)


def test_questions_that_agree_leave_students_interval_over_trainings() -> None:
    each = np.array([0.1, 0.2, 0.6])
    found = repeated(np.repeat(each[:, None], 500, axis=1)).interval
    expected = laws.t.interval(0.95, 2, each.mean(), laws.sem(each))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)


def test_subjects_that_hang_together_widen_the_interval() -> None:
    table = np.stack([np.repeat(answers(1, 20)[0], 10)] * 3)
    plain, by_subject = repeated(table).interval, repeated(table, np.repeat(np.arange(20), 10)).interval
    assert plain is not None
    assert by_subject is not None
    assert by_subject.high - by_subject.low > 2 * (plain.high - plain.low)


def test_bounds_stay_where_values_can_be() -> None:
    table = np.zeros((3, 12))
    table[:, 0] = 1
    found = repeated(table, lowest=0.0).interval
    assert found is not None
    assert found.low == 0.0


def test_nothing_is_claimed_of_two_trainings_or_without_any_difference() -> None:
    assert repeated(answers(2)).interval is None
    assert repeated(np.ones((3, 10))).interval is None


@pytest.mark.parametrize("values", [answers(1), answers(3, 1), np.full((3, 4), np.nan)])
def test_what_cannot_tell_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"needs two of each|NaN"):
        repeated(values)


@pytest.mark.parametrize(("training_sd", "answer_sd"), [(0.0, 0.5), (0.05, 0.5), (0.05, 2.0), (0.15, 0.5)])
def test_intervals_cover_a_new_training_on_new_questions(training_sd: float, answer_sd: float) -> None:
    share, _ = coverage(3, 200, training_sd, answer_sd, 600)
    assert 0.92 < share < 0.999


def test_things_trained_apart_are_compared_whatever_the_order_of_their_trainings() -> None:
    first, second = answers(3, 60), answers(4, 60, seed=1)
    found = repeated_difference(first, second)
    shuffled = repeated_difference(first[[2, 0, 1]], second[::-1])
    assert shuffled.mean == pytest.approx(found.mean)
    assert found.interval is not None
    assert shuffled.interval is not None
    assert (shuffled.interval.low, shuffled.interval.high) == pytest.approx((found.interval.low, found.interval.high))
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert (found.each, found.trainings) == ((), (3, 4))


def test_trainings_apart_add_the_variances_of_both_sides() -> None:
    ours = np.repeat(np.array([0.1, 0.2, 0.6])[:, None], 500, axis=1)
    theirs = np.repeat(np.array([0.3, 0.5, 0.1])[:, None], 500, axis=1)
    found = repeated_difference(ours, theirs)
    expected = laws.ttest_ind(ours[:, 0], theirs[:, 0], equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval is not None
    bounds = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((bounds.low, bounds.high))


def test_two_trainings_on_a_side_have_no_interval_and_no_p() -> None:
    found = repeated_difference(answers(3), answers(2, seed=1))
    assert (found.interval, found.p_value) == (None, None)


def test_p_and_interval_agree() -> None:
    for seed in range(6):
        found = repeated(answers(3, 40, seed) - 0.3)
        assert found.interval is not None
        assert found.p_value is not None
        assert (found.p_value < 0.05) is not found.interval.covers(0.0)


def test_other_questions_on_the_other_side_are_refused() -> None:
    with pytest.raises(ValueError, match="40 questions against 39"):
        repeated_difference(answers(3), answers(3, 39))


def test_strata_narrow_the_interval_over_trainings() -> None:
    half = np.repeat(["a", "b"], 20)
    table = np.where(half == "a", 1.0, answers(3))
    plain, stratified = repeated(table).interval, repeated(table, strata=half).interval
    assert plain is not None
    assert stratified is not None
    assert stratified.high - stratified.low < plain.high - plain.low
