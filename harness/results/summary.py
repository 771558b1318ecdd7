"""Samples and timings of a run as summary rows, and speed-ups over text.

There is one `ResultRow` for each task (or group), channel and control. An error stays in n as an answer that is not
right, and is counted beside the score. Latencies come from questions timed alone at their natural length, or from
equal-length timings where only those exist. A speed-up over text is a ratio between timings that ran next to each
other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from harness import stats
from harness.benchmarks.answer_parsing import is_echo
from harness.records.journal import LoadedRun
from harness.records.schema import ResultRow, Sample, Timing
from harness.results.formatting import arm_text
from harness.results.grouping import (
    DERIVED,
    NO_FACTS,
    Arm,
    Facts,
    Groups,
    Table,
    arm_order,
    chance_row,
    cluster_names,
    facts_of,
    members_by_name,
    tables,
    yardstick,
)


def summarise_run(run: LoadedRun) -> list[ResultRow]:
    """Computes the results table of a run from its journals; what was chosen inside an arm is as its record says."""
    variants = {(row.channel, row.control): row.variant for row in run.record.results}
    return summarise(run.samples, run.timings, facts_of(run.record), variants)


def summarise(
    samples: Iterable[Sample],
    timings: Iterable[Timing] = (),
    facts: Facts = NO_FACTS,
    variants: Mapping[Arm, str] | None = None,
) -> list[ResultRow]:
    """Computes the results table.

    Args:
        samples: One run's samples.
        timings: Its timings.
        facts: What is known of the tasks; with baselines their rows are added.
        variants: Arm -> what was chosen inside it, such as the T2T variant; a control without one has its channel's.

    Returns:
        Groups first, then tasks by name; arms in their usual order.
    """
    kept, timed = list(samples), list(timings)
    inside = members_by_name(facts.groups, (sample.task for sample in kept))
    rows = []
    for table in tables(kept, facts):
        rows += _rows(table, timed, inside[table.name], variants or {})
        largest = max(table.arms.values(), key=len)
        if facts.baselines and (chance := chance_row(table.name, list(largest.values()))):
            rows.append(chance)
    return sorted(rows, key=lambda row: (list(inside).index(row.task), arm_order((row.channel, row.control))))


def _rows(
    table: Table, timings: Sequence[Timing], tasks: Sequence[str], variants: Mapping[Arm, str]
) -> list[ResultRow]:
    ours = [timing for timing in timings if timing.task in tasks]
    rows = []
    for arm, by_key in table.arms.items():
        samples, timed = list(by_key.values()), at_natural_length([t for t in ours if (t.channel, t.control) == arm])
        fields = {**_accuracy_fields(table, samples), **_answer_fields(samples), **latency_fields(timed)}
        if arm[0] in DERIVED:
            fields |= {"payload_bytes_mean": None, "tokens_out_mean": None}
        variant = variants.get(arm, variants.get((arm[0], ""), ""))
        names = {"task": table.name, "channel": arm[0], "control": arm[1], "variant": variant}
        rows.append(ResultRow(**names, **fields, model_pass=arm[0] not in DERIVED))
    return rows


def _accuracy_fields(table: Table, samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns n, errors, right answers over n and a 95% interval: by cluster and stratum where there are any."""
    right = [bool(sample.correct) and sample.done for sample in samples]
    # The bootstrap beside the score interval is not shown.
    found = stats.score(right, cluster_names(samples), resamples=1, strata=table.strata(samples))
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


def at_natural_length(timings: Sequence[Timing]) -> list[Timing]:
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
    return fmean(values) if values else None


@dataclass(frozen=True)
class SpeedUp:
    """Seconds of T2T, or of its first variant, over seconds of an arm, end to end: above 1 the arm is faster.

    Attributes:
        low: None, like `high`, where too few questions were timed for an interval.
        n: questions that both answered next to each other, each counted once.
        lost: questions that were timed in this run, but not through both.
    """

    task: str
    arm: Arm
    ratio: float
    low: float | None
    high: float | None
    n: int
    lost: int = 0


def speed_ups(timings: Iterable[Timing], groups: Groups | None = None) -> list[SpeedUp]:
    """Compares each arm's end-to-end seconds with T2T's on the same questions in the same rounds.

    Args:
        timings: One run's timings, so one machine's.
        groups: Group -> tasks.

    Returns:
        The ratio of medians over questions with its 95% bootstrap interval, where both sides have timings.
    """
    known = at_natural_length(list(timings))
    found = []
    for name, inside in members_by_name(groups, (timing.task for timing in known)).items():
        ours = [timing for timing in known if timing.task in inside]
        arms = sorted({(timing.channel, timing.control) for timing in ours}, key=arm_order)
        text = yardstick("to_t2t", arms)
        pairs = [(arm, text) for arm in arms if text is not None and arm != text]
        found += [one for pair in pairs if (one := _speed_up(name, *pair, ours)) is not None]
    return found


def _speed_up(name: str, arm: Arm, base: Arm, timings: Sequence[Timing]) -> SpeedUp | None:
    ours, text = _seconds(timings, arm), _seconds(timings, base)
    pairs = sorted(ours.keys() & text.keys())
    if not pairs:
        return None
    questions = [f"{task}/{doc_id}" for task, doc_id, _ in pairs]
    found = stats.paired_ratio([text[p] for p in pairs], [ours[p] for p in pairs], questions=questions)
    ratio, interval = found.ratio_of_medians.value, found.ratio_of_medians.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    timed = {(timing.task, timing.doc_id) for timing in timings}
    return SpeedUp(name, arm, ratio, low, high, found.n, len(timed) - found.n)


def lost_timings(timings: Iterable[Timing]) -> list[str]:
    """Says of each task which arms have fewer usable timings than another arm of it."""
    known = at_natural_length(list(timings))
    notes = []
    for task in dict.fromkeys(timing.task for timing in known):
        ours = [timing for timing in known if timing.task == task]
        expected = {(timing.doc_id, timing.round) for timing in ours}
        for arm in sorted({(timing.channel, timing.control) for timing in ours}, key=arm_order):
            usable = len(_seconds(ours, arm))
            if usable < len(expected):
                notes.append(f"{arm_text(*arm)} on {task}: {usable} of {len(expected)} timings; latency is over those.")
    return notes


def _seconds(timings: Sequence[Timing], arm: Arm) -> dict[tuple[str, str, int], float]:
    own = (t for t in timings if (t.channel, t.control) == arm and 0 < t.e2e_s < math.inf)
    return {(t.task, t.doc_id, t.round): t.e2e_s for t in own}
