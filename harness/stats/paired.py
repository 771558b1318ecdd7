"""The difference between two channels that answered the same questions.

Guarantees about 95% coverage of the interval and an exact p-value; ``docs/design/statistics.md`` has
the measured figures. The interval is Tango's score interval, at the effective number of questions
where there are subjects. The percentile bootstrap stands beside it for readers who expect one, but
no verdict uses it, because it covers too seldom at few questions. Causal effects (matched minus mean
message, matched minus mismatched) are paired differences too.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.clusters import quantile, units_design_effect, units_of
from harness.stats.intervals import Interval, tango_bounds
from harness.stats.power import detectable_effect
from harness.stats.resampling import RESAMPLES, resampled_means, sign_flip_p, spread
from harness.stats.vectors import Floats, binary, same_length

_INNER_LEVEL = 0.9


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first channel minus that of the second, as a fraction."""

    difference: float
    n: int
    wins: int  # questions only the first got right
    losses: int  # questions only the second got right
    interval: Interval
    inner: Interval  # at 90%, so that each end is a one-sided bound at 95%
    bootstrap: Interval
    mcnemar_p: float  # exact, questions taken as independent
    p_value: float  # mcnemar_p, or the exact sign-flip test over subjects
    subjects: int  # 0 where the questions were taken as independent
    design_effect: float

    @property
    def discordance(self) -> float:
        """The share of questions that only one of the two got right."""
        return (self.wins + self.losses) / self.n

    @property
    def detectable(self) -> float | None:
        """The smallest difference found with 80% power by a single test at 5%, see ``detectable_at``."""
        return self.detectable_at(0.05)

    def detectable_at(self, alpha: float) -> float | None:
        """The smallest difference that an exact test at level ``alpha`` finds with 80% power; None: not even 1."""
        return detectable_effect(self.n / self.design_effect, self.discordance, alpha)

    def same_within(self, margin: float) -> bool:
        """Whether two one-sided tests at 5% each show a difference smaller than ``margin``, a fraction."""
        return -margin < self.inner.low and self.inner.high < margin


def paired(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    strata: ArrayLike | None = None,
) -> PairedDifference:
    """Compares two channels question by question.

    Args:
        a: 0 or 1 per question for the first channel, ``[n]``.
        b: the same questions in the same order for the second, ``[n]``.
        clusters: the subject of each question, ``[n]``, or nothing where the task has none.
        seed: of the bootstrap.
        level: of the interval and the bootstrap.
        resamples: of the bootstrap.
        strata: the part of fixed size that each question belongs to, ``[n]``, or nothing where the task has none.

    Raises:
        ValueError: if the vectors differ in length, are empty, hold a NaN or anything but 0 and 1.
    """
    first, second = binary(a, "a"), binary(b, "b")
    same_length(first, second, "a and b")
    gains = first - second
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    units = units_of(gains, clusters, strata)
    effect = units_design_effect(gains, units)
    exact = mcnemar_p(wins, losses)
    return PairedDifference(
        difference=(wins - losses) / len(gains),
        n=len(gains),
        wins=wins,
        losses=losses,
        interval=_score_interval(gains, effect, quantile(level, units.subjects, units.parts)),
        inner=_score_interval(gains, effect, quantile(_INNER_LEVEL, units.subjects, units.parts)),
        bootstrap=spread(resampled_means(units, seed, resamples), level),
        mcnemar_p=exact,
        p_value=sign_flip_p(units.sums) if units.subjects > 1 else exact,
        subjects=units.subjects,
        design_effect=effect,
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Exact two-sided McNemar test: a fair coin for each question that only one got right."""
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue)


def _score_interval(gains: Floats, effect: float, z: float) -> Interval:
    wins, losses = (gains > 0).sum(), (gains < 0).sum()
    low, high = tango_bounds(wins / effect, losses / effect, len(gains) / effect, z)
    return Interval(float(low), float(high))
