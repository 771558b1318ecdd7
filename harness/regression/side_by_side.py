"""Two runs side by side: what differs between them, every arm that both have, the questions whose answers turned.

A check judges a run by its baseline; this only shows. Differences are paired, question by question, and adjusted over
all arms that are shown together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill

import pandas as pd

from harness.errors import UserError
from harness.records.schema import Sample
from harness.regression.comparable import other_questions
from harness.regression.differences import find_differences, first_line
from harness.regression.pairing import ArmPair, Run, arm_pairs
from harness.results.comparisons import Effect, Measured, adjust_family, measured_pair
from harness.results.formatting import arm_text, interval_text, p_text, percent_text, points_text, printable
from harness.results.grouping import Table, top_level
from harness.results.terminal_table import WIDTH, fold_table, text_cells

_BEFORE = ("the first run", "")
MOST_TURNED = 8
_HEADING = "second run - first run; p by Holm; turned right (+), wrong (-)"


@dataclass(frozen=True)
class ArmChange:
    """One arm in both runs.

    Attributes:
        effect: the second run minus the first.
        before, after: shares of right answers among the pairs, None where none is left.
    """

    effect: Effect
    before: float | None
    after: float | None


@dataclass(frozen=True)
class SideBySide:
    """What two runs share and what they do not.

    Attributes:
        differs: what the records say, in one sentence.
        changes: every arm that both have, of whole tasks.
        turned: answers that were right in one run and wrong in the other, first run first.
        alone: what only one of the runs has, a sentence each.
    """

    differs: str
    changes: list[ArmChange]
    turned: list[tuple[Sample, Sample]]
    alone: list[str]


def side_by_side(first: Run, second: Run) -> SideBySide:
    """Compares two runs arm by arm and question by question.

    Raises:
        UserError: they have no task in common, or asked other questions under its name.
    """
    if reason := next(other_questions(first, second), None):
        raise UserError(f"{reason.replace('baseline', 'first').replace('the run', 'the second')}; nothing is paired.")
    pairs = arm_pairs(first, second)
    both = [pair for pair in pairs if pair.shared]
    if not both:
        raise UserError("The two runs have no question in common; compare runs of the same --tasks and channels.")
    shown = top_level(first.record.groups, (sample.task for sample in first.samples))
    found = adjust_family([_measured(pair) for pair in both if pair.name in shown])
    named = {(pair.name, pair.arm): pair for pair in both}
    changes = [_change(effect, named[effect.task, effect.arm]) for effect, _ in found]
    turned = [both for pair in both if not pair.pooled for both in pair.answered if both[0].correct != both[1].correct]
    return SideBySide(first_line(find_differences(first, second)), changes, turned, list(_alone(pairs, first, second)))


def render(found: SideBySide, width: int = WIDTH) -> str:
    """Writes the comparison for a terminal."""
    tasks = dict.fromkeys(change.effect.task for change in found.changes)
    blocks = [fill(printable(found.differs), width)]
    blocks += [_task(task, [c for c in found.changes if c.effect.task == task], width) for task in tasks]
    blocks += [fill(line, width) for line in found.alone]
    return "\n\n".join([*blocks, _turned(found.turned, width)])


def _measured(pair: ArmPair) -> Measured:
    return measured_pair(
        Table(pair.name, {pair.arm: pair.head, _BEFORE: pair.base}, pair.stratified), pair.arm, _BEFORE
    )


def _change(effect: Effect, pair: ArmPair) -> ArmChange:
    answered = pair.answered
    shares = [sum(bool(sample.correct) for sample in side) / len(side) for side in zip(*answered, strict=True)]
    return ArmChange(effect, *(shares or (None, None)))


def _alone(pairs: Iterable[ArmPair], first: Run, second: Run) -> Iterator[str]:
    tasks = [{sample.task for sample in side.samples} for side in (first, second)]
    for name, own, other in (("first", tasks[0], tasks[1]), ("second", tasks[1], tasks[0])):
        if only := sorted(own - other):
            yield f"Only the {name} run has {', '.join(only)}."
    shared = [pair for pair in pairs if not pair.pooled and pair.name in tasks[0] & tasks[1]]
    for name, lone in (
        ("first", [pair for pair in shared if not pair.head]),
        ("second", [pair for pair in shared if not pair.base]),
    ):
        if lone:
            yield f"Only the {name} run has {', '.join(dict.fromkeys(arm_text(*pair.arm) for pair in lone))}."


def _task(task: str, changes: Sequence[ArmChange], width: int) -> str:
    heading = fill(f"{task}: {_HEADING}", width)
    return f"{heading}\n{fold_table(change_cells(changes), ('channel',), width)}"


def change_cells(changes: Sequence[ArmChange]) -> pd.DataFrame:
    """Lays out changes: a row an arm, every cell text, without columns that say nothing."""
    rows = pd.DataFrame([_cells(change) for change in changes])
    return text_cells({str(name): rows[name] for name in rows})


def _cells(change: ArmChange) -> dict[str, str]:
    effect = change.effect
    return {
        "channel": arm_text(*effect.arm),
        "first": percent_text(change.before),
        "second": percent_text(change.after),
        "points": points_text(effect.difference),
        "95% interval": interval_text(effect.low, effect.high, signed=True),
        "p": p_text(effect.p_holm),
        "n": str(effect.n),
        "turned": f"+{effect.wins} -{effect.losses}",
        "left out": str(effect.left_out or ""),
    }


def _turned(turned: Sequence[tuple[Sample, Sample]], width: int) -> str:
    if not turned:
        return "No answer turned from right to wrong or back."
    questions = len({(before.task, before.doc_id) for before, _ in turned})
    rows = pd.DataFrame([_turn(before, after) for before, after in turned[:MOST_TURNED]])
    left = len(turned) - len(rows)
    more = [f"and {left} more"] if left else []
    heading = f"{len(turned)} answers to {questions} questions turned; report RUN --question ID shows one"
    return "\n".join([heading, fold_table(rows, ("question", "channel"), width), *more])


def _turn(before: Sample, after: Sample) -> dict[str, str]:
    said = (printable(sample.predicted or "invalid")[:16] for sample in (before, after))
    return {
        "question": printable(before.doc_id),
        "channel": arm_text(*before.arm),
        "key": printable(before.key)[:16],
        "first": next(said),
        "second": next(said),
        "now": "right" if after.correct else "wrong",
    }
