"""Counts of work: forward calls, tokens and bytes an arm. They have no noise, so they need no statistics."""

from __future__ import annotations

from collections.abc import Iterable

from harness.regression.pairing import Run
from harness.regression.verdicts import Verdict

# Runtime settings that change how many forward calls the same work takes.
BATCHING = ("batch_size", "max_batch_tokens")


def counts(baseline: Run, run: Run) -> list[Verdict]:
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
