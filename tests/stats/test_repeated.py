import numpy as np
import pytest
from scipy import stats as laws

from harness.stats import repeated
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
