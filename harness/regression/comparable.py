"""Whether two runs may be compared at all, and whether the run has everything that the baseline has.

Guarantees that a difference in what was asked is never read as a difference in how it was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.records.schema import SCHEMA_VERSION, RunRecord
from harness.regression.pairing import ArmPair, Run
from harness.regression.verdicts import Status, Verdict


def reasons_not_comparable(baseline: Run, run: Run) -> list[Verdict]:
    """Returns why the two runs cannot be compared, a sentence a reason; empty where they can."""
    return [_refused(reason) for reason in (*_schema(baseline, run), *_unfinished(baseline), *_tasks(baseline, run))]


def repetition_refusals(baseline: Run, number: int) -> list[Verdict]:
    """Returns why a further repetition of the baseline cannot be one."""
    return [_refused(f"Repetition {number}: {reason}") for reason in _unfinished(baseline)]


def _refused(reason: str) -> Verdict:
    return Verdict("not comparable", "runs", "", reason)


def _schema(baseline: Run, run: Run) -> Iterable[str]:
    for name, side in (("baseline", baseline), ("run", run)):
        version = side.record.schema_version
        if version > SCHEMA_VERSION:
            known = f"this harness knows up to {SCHEMA_VERSION}"
            yield f"The {name} has schema version {version}, {known}; update the harness."


def _unfinished(baseline: Run) -> Iterable[str]:
    status = baseline.record.status
    if status != "success":
        yield f"The baseline has status {status!r}, only a run that ended with 'success' is one; run it again."
    if not baseline.samples:
        yield "The baseline has no samples; run it again."


def _tasks(baseline: Run, run: Run) -> Iterable[str]:
    asked = ({sample.task for sample in side.samples} for side in (baseline, run))
    if lacking := sorted(next(asked) - next(asked)):
        yield f"The run lacks tasks of the baseline ({_some(lacking)}); run both with the same --tasks."
    yield from (f"{reason}; make a new baseline." for reason in other_questions(baseline, run))


def other_questions(baseline: Run, run: Run) -> Iterator[str]:
    """Yields why answers to tasks that both runs name are answers to other questions."""
    base, head = ({sample.task: sample.kind for sample in side.samples} for side in (baseline, run))
    shared = sorted(set(base) & set(head))
    first, second = baseline.record, run.record
    fields = (
        ("task version", first.task_versions, second.task_versions, ""),
        ("dataset fingerprint", first.datasets, second.datasets, _drawn_otherwise(first, second)),
        ("kind of scoring", base, head, ""),
    )
    for what, old, new, why in fields:
        if changed := [task for task in shared if old.get(task) != new.get(task)]:
            one = changed[0]
            yield (
                f"The {what} differs for {_some(changed)} ({one}: {_short(old.get(one))} in the baseline, "
                f"{_short(new.get(one))} in the run){why}"
            )


def _drawn_otherwise(baseline: RunRecord, run: RunRecord) -> str:
    """By which settings other questions were drawn; empty where all were asked."""
    limit, other_limit = (one.config.get("limit") for one in (baseline, run))
    seed, other_seed = (one.config.get("seed") for one in (baseline, run))
    if limit != other_limit:
        return f", since --limit is {limit} in the baseline and {other_limit} in the run"
    if limit is not None and seed != other_seed:
        return f", since --seed, by which --limit {limit} draws, is {seed} in the baseline and {other_seed} in the run"
    return ""


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _short(value: str | None) -> str:
    return "none" if value is None else value[:12]


def check_finished(run: Run) -> list[Verdict]:
    """Returns a regression where the run itself did not end well."""
    status = run.record.status
    if status == "success":
        return []
    return [Verdict("regression", "runs", "", f"The run has status {status!r}, the baseline ended with 'success'.")]


def check_coverage(pair: ArmPair) -> list[Verdict]:
    """Checks one arm of one task for absent arms, absent questions and new errors."""
    if not pair.base:
        return [Verdict("warning", "arms", pair.subject, "not in the baseline, so not checked")]
    if not pair.head:
        return [Verdict("regression", "arms", pair.subject, "in the baseline, but not in the run")]
    return [*_questions(pair), *_errors(pair)]


def _questions(pair: ArmPair) -> Iterable[Verdict]:
    n, shared, new = len(pair.base), len(pair.shared), len(set(pair.head) - set(pair.base))
    if shared < n:
        text = f"{shared} of the baseline's {n} questions were asked, {n - shared} are absent"
        yield Verdict("regression", "questions", pair.subject, text)
    if new:
        yield Verdict("warning", "questions", pair.subject, f"{new} questions are not in the baseline, so not checked")


def _errors(pair: ArmPair) -> Iterable[Verdict]:
    base, head = (sum(not sides[i].done for sides in pair.shared) for i in (0, 1))
    new = sum(before.done and not after.done for before, after in pair.shared)
    if head == base and not new:
        return
    # As many as before may be others than before: what was answered and is not any more is lost all the same.
    status: Status = "regression" if head >= base else "better"
    text = f"{base} -> {head} questions without an answer, of {len(pair.shared)}, {new} of them new"
    yield Verdict(status, "errors", pair.subject, text)
