"""Checks without statistics: equal answers where identities are equal, and counts of work.

Answers are compared question by question, only within one hardware fingerprint: another processor rounds otherwise, and
a greedy decoder may then produce another text. Counts of work (forward calls, tokens and bytes an arm) have no noise,
so they need no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.records.schema import Sample
from harness.regression.pairing import ArmPair, Run
from harness.regression.verdicts import Status, Verdict
from harness.results.formatting import percent_text

LOGLIKELIHOOD_TOLERANCE = 1e-4


def same_identity(baseline: Run, run: Run) -> bool:
    """Whether both runs were asked for the same thing with the same weights; an empty identity equals none."""
    return bool(baseline.record.identity) and baseline.record.identity == run.record.identity


def same_hardware(baseline: Run, run: Run) -> bool:
    """Whether both ran on hardware with one fingerprint; an unknown fingerprint equals none."""
    mark = baseline.record.hardware.fingerprint
    return bool(mark) and mark == run.record.hardware.fingerprint


def same_answer(base: Sample, head: Sample) -> bool:
    """Compares text, labels and scores exactly, loglikelihoods to 1e-4 nats.

    What one side did not keep (the record of a leaderboard has no text) is not compared.
    """
    return (
        (base.predicted, base.predicted_strict, base.correct, base.correct_strict)
        == (head.predicted, head.predicted_strict, head.correct, head.correct_strict)
        and _agree(base.text, head.text)
        and _agree(base.routed_to, head.routed_to)
        and _close(base.loglikelihoods, head.loglikelihoods)
    )


def _agree(base: str | None, head: str | None) -> bool:
    return base is None or head is None or base == head


def _close(base: Sequence[float] | None, head: Sequence[float] | None) -> bool:
    if base is None or head is None:
        return True
    return len(base) == len(head) and all(
        math.isclose(a, b, rel_tol=0.0, abs_tol=LOGLIKELIHOOD_TOLERANCE) for a, b in zip(base, head, strict=True)
    )


def check_equality(pair: ArmPair, hardware_equal: bool) -> Verdict:
    """Returns whether every question answered by both has the same answer."""
    changed = [(base, head) for base, head in pair.answered if not same_answer(base, head)]
    n = len(pair.answered)
    if not changed:
        return Verdict("same", "answers", pair.subject, f"all {n} answers are equal")
    first = changed[0][0].doc_id
    before, after = (percent_text(sum(bool(sides[i].correct) for sides in pair.answered) / n) for i in (0, 1))
    text = f"{len(changed)} of {n} answers changed under one identity, first {first!r}; accuracy {before} -> {after}"
    status: Status = "regression" if hardware_equal else "warning"
    return Verdict(status, "answers", pair.subject, text if hardware_equal else f"{text}; the hardware differs")


# Runtime settings that change how many forward calls the same work takes.
BATCHING = ("batch_size", "max_batch_tokens")


def check_counts(baseline: Run, run: Run) -> list[Verdict]:
    """Compares every counter of every arm of the baseline: more work is a regression, less is better.

    Callers ask only where both runs have one identity: other settings do other work.
    """
    if reason := _incomparable(baseline, run):
        return [Verdict("warning", "counts", "", reason)]
    return [verdict for arm in sorted(baseline.record.counters) for verdict in _arm(arm, baseline, run)]


def _incomparable(baseline: Run, run: Run) -> str:
    if not baseline.record.counters:
        return "the baseline has no counts, so they were not compared"
    if baseline.record.resumed or run.record.resumed:
        return "not compared: a resumed run counts only what it did itself"
    old, new = baseline.record.config, run.record.config
    if changed := [name for name in BATCHING if old.get(name) != new.get(name)]:
        return f"not compared: {' and '.join(changed)} differ, and with them the forward calls"
    return ""


def _arm(arm: str, baseline: Run, run: Run) -> Iterable[Verdict]:
    old, new = baseline.record.counters[arm], run.record.counters.get(arm)
    if new is None:
        yield Verdict("regression", "counts", arm, "counted in the baseline, but not in the run")
        return
    names = sorted(old)
    if lacking := [name for name in names if name not in new]:
        yield Verdict("regression", "counts", arm, f"no longer counted: {', '.join(lacking)}")
    changes = {name: new[name] - old[name] for name in names if name in new}
    if more := [name for name in changes if changes[name] > 0]:
        yield Verdict("regression", "counts", arm, f"more work: {_changes(more, old, new)}")
    if fewer := [name for name in changes if changes[name] < 0]:
        yield Verdict("better", "counts", arm, f"less work: {_changes(fewer, old, new)}")
    if not (lacking or more or fewer):
        yield Verdict("same", "counts", arm, f"{', '.join(names)} are equal")


def _changes(names: list[str], old: dict[str, int], new: dict[str, int]) -> str:
    return ", ".join(f"{name} {old[name]} -> {new[name]}" for name in names)
