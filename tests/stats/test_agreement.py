import pytest

from harness.stats import (
    INVALID,
    Agreement,
    agreement,
    complementarity,
    invalid_rate,
    letter_histogram,
    parser_disagreement,
)


def test_four_outcomes() -> None:
    seen = agreement([1, 1, 0, 0, 1], [1, 0, 1, 0, 0])
    assert seen == Agreement(both=1, only_a=2, only_b=1, neither=1)
    assert (seen.n, seen.oracle) == (5, pytest.approx(0.8))


def test_what_each_channel_adds() -> None:
    seen = complementarity({"receiver": [1, 0, 0, 0], "sharer": [1, 1, 0, 0], "c2c": [1, 0, 1, 0]})
    assert seen.only == {"receiver": 0, "sharer": 1, "c2c": 1}
    assert (seen.n, seen.oracle) == (4, 0.75)


def test_complementarity_refuses_other_questions_and_nothing() -> None:
    with pytest.raises(ValueError, match="pair them"):
        complementarity({"receiver": [1, 0], "c2c": [1]})
    with pytest.raises(ValueError, match="at least one"):
        complementarity({})


def test_letters_keep_their_order_and_zero_counts() -> None:
    seen = letter_histogram(["B", None, "A", "B", "J"])
    assert list(seen.items()) == [("A", 1), ("B", 2), ("C", 0), ("D", 0), ("J", 1), (INVALID, 1)]


def test_rates() -> None:
    assert invalid_rate(["A", None, None, "B"]) == 0.5
    assert parser_disagreement(["A", None, "C"], ["A", "B", None]) == pytest.approx(2 / 3)


def test_rates_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="undefined"):
        invalid_rate([])
    with pytest.raises(ValueError, match="shorter"):
        parser_disagreement(["A", "B"], ["A"])
