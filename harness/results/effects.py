"""What a channel changes, question by question: paired differences between arms of one run.

Each effect has its own interval, exact McNemar p, Holm-adjusted p over everything returned together, and the
smallest difference that the questions at hand could have shown. A pair with an error on either side is left
out and counted. The content effect (matched minus mean message) is the one that a message's mere form cannot give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness import stats
from harness.records.schema import Sample
from harness.results.groups import (
    NO_FACTS,
    RECEIVER,
    SHARER,
    T2T,
    TUNED,
    Arm,
    Facts,
    Table,
    clusters,
    tables,
    top_level,
)

NOTHING = "nothing to compare"
NOT_AFTER_HOLM = ", not after Holm"
LEVEL = 0.05


class Kind(NamedTuple):
    """A named comparison: what it is called and what it tells."""

    name: str
    title: str
    meaning: str


TO_RECEIVER = Kind("to_receiver", "vs receiver", "what the channel adds to the receiver")
TO_T2T = Kind("to_t2t", "vs T2T", "what the channel adds to text")
TO_TUNED = Kind("to_tuned", "vs tuned", "what the channel adds to the receiver fine-tuned alone")
CONTENT = Kind("content", "content", "matched minus mean message: what the message says")
MISINFORMATION = Kind("misinformation", "misinformation", "mean minus mismatched: what a wrong message costs")
ADAPTATION = Kind("adaptation", "adaptation", "mean message minus receiver alone: what its mere form gives")
TO_SELF = Kind("to_self", "vs self-fuser", "matched minus self: what the other model gives")
TO_MISMATCHED = Kind("to_mismatched", "vs mismatched", "matched minus another question's message")
KINDS = (TO_RECEIVER, TO_T2T, TO_TUNED, CONTENT, MISINFORMATION, ADAPTATION, TO_SELF, TO_MISMATCHED)
AGAINST = Kind("against", "difference", "one arm minus another, in no family of tests")
BY_NAME = {kind.name: kind for kind in (*KINDS, AGAINST)}


class Comparison(NamedTuple):
    """``arm`` minus ``base``, reported under ``channel``."""

    channel: str
    kind: Kind
    arm: Arm
    base: Arm


@dataclass(frozen=True)
class Effect:
    """One paired difference of accuracies, as fractions; None where no pair is left.

    Attributes:
        n: Pairs compared.
        left_out: Pairs with an error on either side or a question that one side lacks.
        p: Exact McNemar, two-sided; where there are subjects a sign-flip test over them.
        p_holm: The same, adjusted over all effects returned together.
        verdict: In words; a difference that only its unadjusted interval resolves says so.
        minimum_detectable: Smallest difference that these pairs resolve with 80% power.
    """

    task: str
    channel: str
    kind: str
    arm: Arm
    base: Arm
    n: int
    left_out: int
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    wins: int = 0
    losses: int = 0
    p: float | None = None
    p_holm: float | None = None
    minimum_detectable: float | None = None

    @property
    def title(self) -> str:
        """What the comparison is called in text."""
        return BY_NAME[self.kind].title


def effects(samples: Iterable[Sample], facts: Facts = NO_FACTS) -> list[Effect]:
    """Compares the arms of every top-level task or group.

    Args:
        samples: One run's samples.
        facts: What is known of the tasks; those of a group are compared together, not one by one, so that the
            family of tests stays as large as what is shown.

    Returns:
        By task, channel and kind; p adjusted by Holm over the whole list.
    """
    found = list(samples)
    shown = top_level(facts.groups, (sample.task for sample in found))
    listed = [effect for table in tables(found, facts) if table.name in shown for effect in _table_effects(table)]
    return _adjusted(listed)


def compared(table: Table, arm: Arm, base: Arm) -> Effect:
    """Compares any two arms of a table, adjusted for no other comparison.

    Raises:
        KeyError: the table lacks one of them.
    """
    return _effect(table, Comparison(arm[0], AGAINST, arm, base))


def comparisons(arms: Iterable[Arm]) -> Iterator[Comparison]:
    """Yields the comparisons that the arms at hand allow."""
    present = list(arms)
    for channel in dict.fromkeys(channel for channel, _ in present):
        for comparison in _channel_comparisons(channel, channel_arms=set(present)):
            if comparison.arm in present and comparison.base in present:
                yield comparison


def _channel_comparisons(channel: str, channel_arms: set[Arm]) -> Iterator[Comparison]:
    matched, mean, mismatched = (channel, ""), (channel, "mean"), (channel, "mismatched")
    if matched != RECEIVER:
        yield Comparison(channel, TO_RECEIVER, matched, RECEIVER)
    if matched not in (RECEIVER, TUNED, T2T):
        yield Comparison(channel, TO_T2T, matched, T2T)
    if matched not in (RECEIVER, TUNED, SHARER):
        yield Comparison(channel, TO_TUNED, matched, TUNED)
    yield Comparison(channel, CONTENT, matched, mean)
    yield Comparison(channel, MISINFORMATION, mean, mismatched)
    yield Comparison(channel, ADAPTATION, mean, RECEIVER)
    yield Comparison(channel, TO_SELF, matched, (channel, "self"))
    if mean not in channel_arms:
        yield Comparison(channel, TO_MISMATCHED, matched, mismatched)


def _table_effects(table: Table) -> list[Effect]:
    return [_effect(table, comparison) for comparison in comparisons(table.arms)]


def _effect(table: Table, comparison: Comparison) -> Effect:
    arm, base = table.arms[comparison.arm], table.arms[comparison.base]
    kept = [key for key in arm if key in base and arm[key].done and base[key].done]
    empty = Effect(
        task=table.name,
        channel=comparison.channel,
        kind=comparison.kind.name,
        arm=comparison.arm,
        base=comparison.base,
        n=len(kept),
        left_out=len(arm.keys() | base.keys()) - len(kept),
        verdict=NOTHING,
    )
    return _measured(empty, [arm[key] for key in kept], base) if kept else empty


def _measured(empty: Effect, arm: Sequence[Sample], base: Mapping[tuple[str, str], Sample]) -> Effect:
    ours = [bool(sample.correct) for sample in arm]
    theirs = [bool(base[(sample.task, sample.doc_id)].correct) for sample in arm]
    found = stats.paired(ours, theirs, clusters=clusters(arm))
    return replace(
        empty,
        verdict=stats.verdict(found),
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        wins=found.wins,
        losses=found.losses,
        p=found.p_value,
        minimum_detectable=found.detectable,
    )


def _adjusted(listed: Sequence[Effect]) -> list[Effect]:
    tested = [effect.p for effect in listed if effect.p is not None]
    adjusted = iter(stats.holm(tested) if tested else [])
    return [effect if effect.p is None else _with_holm(effect, next(adjusted)) for effect in listed]


def _with_holm(effect: Effect, p_holm: float) -> Effect:
    alone = p_holm > LEVEL and effect.verdict != stats.NOT_RESOLVED
    return replace(effect, p_holm=p_holm, verdict=f"{effect.verdict}{NOT_AFTER_HOLM}" if alone else effect.verdict)
