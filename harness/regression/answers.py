"""Equal identities must give equal answers: no statistics, just a comparison question by question.

Only within one hardware fingerprint: another processor rounds otherwise, and a greedy decoder may then turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records.schema import Sample
from harness.regression.pairing import ArmPair, Run
from harness.regression.verdicts import Status, Verdict
from harness.results.wording import percent_text

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


def equality(pair: ArmPair, hardware_equal: bool) -> Verdict:
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
