import pytest

from harness.relay_build.costs import Cost, draw, markdown
from harness.relay_build.table import average_row, clusters_of, equivalence, holm_by_name, split_of

NAMES = [f"name{number // 2}" for number in range(200)]


def every(fourth):
    return [[number % 4 in fourth for number in range(200)] for _ in range(3)]


def test_a_row_at_chance_is_not_above_it_and_a_better_one_is():
    rows = [average_row("receiver", every({0}), NAMES), average_row("sharer", every({0, 1, 2}), NAMES)]
    assert rows[0].p_above_chance == pytest.approx(0.5)
    assert rows[1].p_above_chance < 1e-6
    assert holm_by_name(rows)["receiver"] > 0.4
    assert holm_by_name(rows)["sharer"] < 1e-5


def test_rows_that_are_told_something_are_not_tested_but_their_controls_are():
    names = [
        "receiver",
        "letters, MLP",
        "C2C",
        "c2c",
        "c2c (mean)",
        "t2t",
        "t2t (zeroed)",
        "place written",
        "true note",
    ]
    rows = [average_row(name, every({0}), NAMES) for name in names]
    assert set(holm_by_name(rows)) == {"receiver", "letters, MLP", "c2c (mean)", "t2t (zeroed)"}


def test_two_rows_that_are_alike_are_the_same_within_a_margin():
    first, second = every({0}), every({0})
    second[0][0] = not second[0][0]
    same = equivalence(first, second, NAMES)
    assert same.mean == pytest.approx(1 / 600)
    assert -0.1 < same.interval.low < same.interval.high < 0.1


def test_clusters_follow_the_committed_questions():
    assert len(clusters_of("one", "taught")) == 432
    assert len(set(clusters_of("crowd", "untaught"))) == 48
    assert [split_of(name) for name in ("untaught: C2C", "places: sharer", "C2C", "places forced")] == [
        "untaught",
        "places",
        "taught",
        "taught",
    ]


def test_costs_stand_side_by_side_and_are_drawn(tmp_path):
    rows = [
        Cost("relay_one", "t2t:max_new_tokens=4", 99.5, 432, 20.0, 0.05, 40),
        Cost("relay_one", "c2c", 97.0, 432, 16000.0, 0.02, 40),
        Cost("relay_crowd", "t2t:max_new_tokens=4", 50.0, 432, 21.0, 0.05, 40),
        Cost("relay_crowd", "c2c", 95.0, 432, 20000.0, 0.03, 40),
    ]
    text = markdown(rows)
    assert "| `c2c` | 97.0 | 16,000 | 20.0 | 95.0 | 20,000 | 30.0 |" in text
    draw(rows, tmp_path / "costs.svg")
    assert (tmp_path / "costs.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_a_single_training_has_an_interval_over_questions():
    row = average_row("receiver", every({0})[:1], NAMES)
    assert row.accuracy.each == (0.25,)
    assert 0.15 < row.accuracy.interval.low < 0.25 < row.accuracy.interval.high < 0.35
