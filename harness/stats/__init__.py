"""Statistics over saved records: intervals that cover, paired tests, power, agreement, latency.

Guarantees that nothing here knows of models: numpy and scipy only, seeded, never a NaN. Methods and
their measured coverage are in ``docs/design/statistics.md``.
"""

from harness.stats.agreement import (
    INVALID,
    Agreement,
    Complementarity,
    agreement,
    complementarity,
    invalid_rate,
    letter_histogram,
    parser_disagreement,
)
from harness.stats.graded import MeanEffect, effect_difference, mean_effect, paired_graded
from harness.stats.intervals import Interval, wilson
from harness.stats.latency import (
    Estimate,
    MannWhitney,
    PairedRatio,
    Percentiles,
    mann_whitney,
    paired_ratio,
    percentiles,
    tpot_s,
)
from harness.stats.paired import PairedDifference, mcnemar_p, paired
from harness.stats.power import (
    HIGHER,
    LOWER,
    NOT_RESOLVED,
    detectable_effect,
    holm,
    mcnemar_power,
    minimum_detectable_effect,
    verdict,
)
from harness.stats.repeated import Repeated, repeated, repeated_difference
from harness.stats.scores import Score, score

__all__ = [
    "HIGHER",
    "INVALID",
    "LOWER",
    "NOT_RESOLVED",
    "Agreement",
    "Complementarity",
    "Estimate",
    "Interval",
    "MannWhitney",
    "MeanEffect",
    "PairedDifference",
    "PairedRatio",
    "Percentiles",
    "Repeated",
    "Score",
    "agreement",
    "complementarity",
    "detectable_effect",
    "effect_difference",
    "holm",
    "invalid_rate",
    "letter_histogram",
    "mann_whitney",
    "mcnemar_p",
    "mcnemar_power",
    "mean_effect",
    "minimum_detectable_effect",
    "paired",
    "paired_graded",
    "paired_ratio",
    "parser_disagreement",
    "percentiles",
    "repeated",
    "repeated_difference",
    "score",
    "tpot_s",
    "verdict",
    "wilson",
]
