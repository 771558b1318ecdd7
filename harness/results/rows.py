"""Samples and timings -> one `ResultRow` a task (or group), channel and control.

An error stays in n as an answer that is not right, and is counted beside the score. Latencies come from
questions timed alone at their natural length; where only equal-length timings exist, from those.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness import stats
from harness.extraction import is_echo
from harness.records.schema import ResultRow, Sample, Timing
from harness.results.baselines import DERIVED, chance_row
from harness.results.groups import NO_FACTS, Facts, Table, arm_order, clusters, members, tables


def summarise(
    samples: Iterable[Sample],
    timings: Iterable[Timing] = (),
    facts: Facts = NO_FACTS,
    variants: Mapping[str, str] | None = None,
) -> list[ResultRow]:
    """Computes the results table.

    Args:
        samples: One run's samples.
        timings: Its timings.
        facts: What is known of the tasks; with baselines their rows are added.
        variants: Channel -> what was chosen inside it, such as the T2T variant.

    Returns:
        Groups first, then tasks by name; arms in their usual order.
    """
    kept, timed = list(samples), list(timings)
    inside = members(facts.groups, (sample.task for sample in kept))
    rows = []
    for table in tables(kept, facts):
        rows += _rows(table, timed, inside[table.name], variants or {})
        largest = max(table.arms.values(), key=len)
        if facts.baselines and (chance := chance_row(table.name, list(largest.values()))):
            rows.append(chance)
    return sorted(rows, key=lambda row: (list(inside).index(row.task), arm_order((row.channel, row.control))))


def _rows(
    table: Table, timings: Sequence[Timing], tasks: Sequence[str], variants: Mapping[str, str]
) -> list[ResultRow]:
    ours = [timing for timing in timings if timing.task in tasks]
    rows = []
    for arm, by_key in table.arms.items():
        samples, timed = list(by_key.values()), natural([t for t in ours if (t.channel, t.control) == arm])
        fields = {**_accuracy_fields(table, samples), **_answer_fields(samples), **latency_fields(timed)}
        if arm[0] in DERIVED:
            fields |= {"payload_bytes_mean": None, "tokens_out_mean": None}
        names = {"task": table.name, "channel": arm[0], "control": arm[1], "variant": variants.get(arm[0], "")}
        rows.append(ResultRow(**names, **fields, model_pass=arm[0] not in DERIVED))
    return rows


def _accuracy_fields(table: Table, samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns n, errors, right answers over n and a 95% interval: by cluster and stratum where there are any."""
    right = [bool(sample.correct) and sample.done for sample in samples]
    # The bootstrap beside the score interval is not shown.
    found = stats.score(right, clusters(samples), resamples=1, strata=table.strata(samples))
    return {
        "n": len(samples),
        "errors": sum(not sample.done for sample in samples),
        "accuracy": found.accuracy,
        "accuracy_low": found.interval.low,
        "accuracy_high": found.interval.high,
        "clusters": found.subjects,
    }


def _answer_fields(samples: Sequence[Sample]) -> dict[str, Any]:
    done = [sample for sample in samples if sample.done]
    strict = [sample.correct_strict for sample in done if sample.correct_strict is not None]
    letters = Counter(sample.predicted for sample in done if sample.predicted is not None)
    return {
        "invalid": sum(sample.predicted is None for sample in done),
        "accuracy_strict": sum(strict) / len(samples) if strict else None,
        "echoes": _echoes(done),
        "parsers_disagree": sum(s.predicted != s.predicted_strict for s in done if s.correct_strict is not None),
        "letters": dict(sorted(letters.items())),
        "payload_bytes_mean": _mean([sample.payload_bytes for sample in done]),
        "tokens_out_mean": _mean([sample.tokens_out for sample in done]),
    }


def _echoes(done: Sequence[Sample]) -> int | None:
    """Counts answers that repeat the labels; None where none was generated, or texts are not kept."""
    generated = [(sample.text, max(len(sample.labels), 2)) for sample in done if sample.text is not None]
    return sum(is_echo(text, options) for text, options in generated) if generated else None


def natural(timings: Sequence[Timing]) -> list[Timing]:
    """Keeps the timings at natural length; all of them where every one is at equal length."""
    return [timing for timing in timings if not timing.equal_length] or list(timings)


def latency_fields(timings: Sequence[Timing]) -> dict[str, Any]:
    """Quantiles of what was timed, under the names of `ResultRow`; empty where nothing was."""
    finite = [timing for timing in timings if math.isfinite(timing.e2e_s) and 0 <= timing.ttft_s <= timing.e2e_s]
    if not finite:
        return {}
    per_token = [stats.tpot_s(timing.e2e_s, timing.ttft_s, timing.tokens_out) for timing in finite]
    return {
        "latency_n": len(finite),
        **_quantiles("ttft_s", [timing.ttft_s for timing in finite], (50, 90)),
        **_quantiles("e2e_s", [timing.e2e_s for timing in finite], (50, 90, 99)),
        **_quantiles("tpot_s", [seconds for seconds in per_token if seconds is not None], (50,)),
        "stages_s_p50": stage_quantile(finite, 50),
        "stages_s_p90": stage_quantile(finite, 90),
    }


def stage_quantile(timings: Sequence[Timing], percent: int) -> dict[str, float]:
    """Returns stage -> its percentile in seconds; a stage that a timing lacks took no time there."""
    stages = dict.fromkeys(stage for timing in timings for stage in timing.stages_s)
    return {stage: _quantile([timing.stages_s.get(stage, 0.0) for timing in timings], percent) for stage in stages}


def _quantiles(name: str, seconds: Sequence[float], percents: Sequence[int]) -> dict[str, float]:
    return {f"{name}_p{percent}": _quantile(seconds, percent) for percent in percents} if seconds else {}


def _quantile(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(np.asarray(values, dtype=float), percent))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
