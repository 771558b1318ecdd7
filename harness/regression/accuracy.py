"""Paired accuracy: alarms on evidence of harm, warns where harm could hide, and keeps the two apart.

A lower bound under the margin alone says that there were too few questions, not that anything got worse: with
n = 500 it would alarm on most unchanged runs. An alarm therefore takes an exact one-sided McNemar test,
corrected by Holm over every arm of the check, and a loss beyond the margin. The price is stated in each warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.records.schema import Sample
from harness.regression.pairing import ArmPair
from harness.regression.verdicts import Options, Verdict, p_words
from harness.results.groups import clusters
from harness.results.wording import percent_text, points_text
from harness.stats import PairedDifference, holm, paired

# The bootstrap and the test over subjects decide nothing here, and a check may have hundreds of arms.
UNUSED = 1

Measure = Callable[[Sample], bool]


@dataclass(frozen=True)
class _Test:
    """One arm under one measure: `check` names it, `score` are the shares before and after."""

    check: str
    subject: str
    before: float
    after: float
    difference: PairedDifference


def accuracy(pairs: Sequence[ArmPair], options: Options) -> list[Verdict]:
    """Tests every arm for lost accuracy and for answers that no longer parse.

    Args:
        pairs: Arms to be tested; together they are one family of comparisons.
        options: Margin and levels.
    """
    answered = [pair for pair in pairs if pair.answered]
    tests = [_test("accuracy", pair, _right, options) for pair in answered]
    tests += [_test("invalid", pair, _valid, options) for pair in answered]
    if not tests:
        return []
    harms = holm([_one_sided(test.difference, -1) for test in tests])
    gains = holm([_one_sided(test.difference, +1) for test in tests])
    verdicts = [_judge(*each, options) for each in zip(tests, harms, gains, strict=True)]
    return [verdict for test, verdict in zip(tests, verdicts, strict=True) if _worth_a_line(test, verdict)]


def _right(sample: Sample) -> bool:
    return bool(sample.correct)


def _valid(sample: Sample) -> bool:
    return sample.predicted is not None


def _test(check: str, pair: ArmPair, measure: Measure, options: Options) -> _Test:
    base, head = zip(*pair.answered, strict=True)
    before, after = [measure(sample) for sample in base], [measure(sample) for sample in head]
    level = 2 * options.level - 1  # a two-sided interval has this level where each bound alone has `options.level`
    difference = paired(after, before, clusters=clusters(base), level=level, resamples=UNUSED)
    return _Test(check, pair.subject, sum(before) / len(before), sum(after) / len(after), difference)


def _worth_a_line(test: _Test, verdict: Verdict) -> bool:
    return test.check == "accuracy" or test.difference.difference < 0 or verdict.status == "better"


def _one_sided(difference: PairedDifference, sign: int) -> float:
    """Halves the exact two-sided McNemar p: with both directions equally likely it is symmetric."""
    return difference.mcnemar_p / 2 if sign * difference.difference > 0 else 1.0


def _judge(test: _Test, harm_p: float, gain_p: float, options: Options) -> Verdict:
    difference = test.difference
    figures = _figures(test)
    if harm_p < options.alpha and difference.difference < -options.margin:
        return Verdict("regression", test.check, test.subject, f"{figures}, {p_words(harm_p)} after Holm")
    if gain_p < options.alpha:
        return Verdict("better", test.check, test.subject, f"{figures}, {p_words(gain_p)} after Holm")
    if difference.interval.low < -options.margin:
        hidden = points_text(-difference.interval.low).lstrip("+")
        text = f"{figures}; not resolved at this n: a loss of up to {hidden} points could hide"
        return Verdict("warning", test.check, test.subject, text)
    return Verdict("same", test.check, test.subject, f"{figures}; any loss is below {options.margin_points:g} points")


def _figures(test: _Test) -> str:
    found = test.difference
    what = "" if test.check == "accuracy" else "valid answers "
    return (
        f"{what}{percent_text(test.before)} -> {percent_text(test.after)} "
        f"({points_text(found.difference)} points, n = {found.n}, {found.wins} won, {found.losses} lost)"
    )
