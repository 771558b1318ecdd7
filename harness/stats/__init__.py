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
from harness.stats.intervals import (
    HIGHER,
    LOWER,
    NOT_RESOLVED,
    Interval,
    detectable_effect,
    holm,
    mcnemar_power,
    minimum_detectable_effect,
    questions_needed,
    verdict,
    wilson,
)
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
from harness.stats.paired import PairedDifference, Score, mcnemar_p, paired, score
from harness.stats.repeated import (
    MeanEffect,
    Repeated,
    effect_difference,
    mean_effect,
    paired_graded,
    repeated,
    repeated_difference,
)

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
    "questions_needed",
    "repeated",
    "repeated_difference",
    "score",
    "tpot_s",
    "verdict",
    "wilson",
]
