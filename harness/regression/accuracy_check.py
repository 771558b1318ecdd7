"""Paired accuracy: a regression takes evidence of harm, the word "same" takes evidence of sameness.

A lower bound under the margin alone says that there were too few questions, not that anything got worse: with
n = 500 it would alarm on most unchanged runs. A regression therefore takes an exact one-sided test (McNemar's; where
questions come in facts or subjects, signs are flipped fact by fact), corrected by Holm over every arm of the check, and
a loss beyond the margin. "Same" takes two one-sided tests that show the difference to be within the margin. Between the
two lies "not shown".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.records.schema import Sample
from harness.regression.pairing import ArmPair
from harness.regression.verdicts import Options, Verdict, p_words
from harness.results.formatting import percent_text, points_text
from harness.stats import PairedDifference, holm, paired

Measure = Callable[[Sample], bool]


@dataclass(frozen=True)
class _Test:
    """One arm under one measure: `check` names it.

    Attributes:
        before: The share in the baseline.
        after: The share in the run.
        turned: Facts, subjects or single questions with another number of right answers than before.
    """

    check: str
    subject: str
    before: float
    after: float
    difference: PairedDifference
    turned: int

    @property
    def smallest_p(self) -> float:
        """The one-sided p if every answer that turned had turned the same way."""
        return 0.5**self.turned


def check_accuracy(pairs: Sequence[ArmPair], options: Options) -> list[Verdict]:
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
    harms = _adjusted([_one_sided(test.difference, -1) for test in tests], tests, options)
    gains = _adjusted([_one_sided(test.difference, +1) for test in tests], tests, options)
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
    names = resampling_units(base)
    strata = [sample.task for sample in base] if pair.stratified else None
    # The bootstrap beside the score interval is not shown.
    difference = paired(after, before, clusters=names, level=level, resamples=1, strata=strata)
    turned = _turned(names or range(len(base)), before, after)
    return _Test(check, pair.subject, fmean(before), fmean(after), difference, turned)


def _turned(names: Iterable[Hashable], before: Sequence[bool], after: Sequence[bool]) -> int:
    gains: Counter[Hashable] = Counter()
    for name, old, new in zip(names, before, after, strict=True):
        gains[name] += int(new) - int(old)
    return sum(gain != 0 for gain in gains.values())


def resampling_units(samples: Sequence[Sample]) -> list[str] | None:
    """Returns what each sample's answer turns together with: its fact or subject; None where each stands alone.

    A subject that is the whole of its task is none: nothing tells how much its questions hang together.
    """
    subjects: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        subjects[sample.task].add(sample.subject)
    names = [sample.cluster or _subject(sample, len(subjects[sample.task])) for sample in samples]
    return names if 1 < len(set(names)) < len(names) else None


def _subject(sample: Sample, subjects: int) -> str:
    own = f"/{sample.doc_id}" if subjects == 1 else ""
    return f"{sample.task}/{sample.subject}{own}"


def _worth_a_line(test: _Test, verdict: Verdict) -> bool:
    return test.check == "accuracy" or test.difference.difference < 0 or verdict.status == "better"


def _one_sided(difference: PairedDifference, sign: int) -> float:
    """Halves the exact two-sided p: with both directions equally likely it is symmetric."""
    return difference.p_value / 2 if sign * difference.difference > 0 else 1.0


def _adjusted(p_values: Sequence[float], tests: Sequence[_Test], options: Options) -> list[float]:
    """Holm's p over the tests that could reject at all.

    Where so few answers turned that not even all of them in one direction would be evidence, a test cannot alarm by
    chance, and counting it would only weaken the others (Tarone 1990).
    """
    able = [index for index, test in enumerate(tests) if test.smallest_p < options.alpha]
    adjusted = [1.0] * len(tests)
    if able:
        for index, p in zip(able, holm([p_values[index] for index in able]), strict=True):
            adjusted[index] = p
    return adjusted


def _judge(test: _Test, harm_p: float, gain_p: float, options: Options) -> Verdict:
    difference, low, high = test.difference, test.difference.interval.low, test.difference.interval.high
    figures = _figures(test)
    if harm_p < options.alpha and difference.difference < -options.margin:
        return Verdict("regression", test.check, test.subject, f"{figures}, {p_words(harm_p)} after Holm")
    if gain_p < options.alpha:
        return Verdict("better", test.check, test.subject, f"{figures}, {p_words(gain_p)} after Holm")
    if low <= -options.margin:
        hidden = points_text(-low).lstrip("+")
        text = f"{figures}; not shown at this n: a loss of up to {hidden} points could hide"
        return Verdict("not shown", test.check, test.subject, text)
    if high >= options.margin:
        text = f"{figures}; any loss is below {options.margin_points:g} points, a gain is not resolved"
        return Verdict("no worse", test.check, test.subject, text)
    return Verdict("same", test.check, test.subject, f"{figures}; same within {options.margin_points:g} points")


def _figures(test: _Test) -> str:
    found = test.difference
    what = "" if test.check == "accuracy" else "valid answers "
    return (
        f"{what}{percent_text(test.before)} -> {percent_text(test.after)} "
        f"({points_text(found.difference)} points, n = {found.n}, {found.wins} won, {found.losses} lost)"
    )
