"""Paired differences between the arms of a run, and what may be claimed of a channel.

Each effect has its own interval, exact p, Holm-adjusted p over a family, and the smallest difference that its questions
could have shown at the level that Holm leaves to it. A family is what is shown together: a run's comparisons, or on a
board all of a task. A pair with an error on either side is left out and counted. Only the content effect (matched minus
mean message) cannot come from a message's mere form.

A channel has to add to each of its rivals (receiver, sharer, ensemble, T2T). In this intersection-union test each
difference is tested at its own level, nothing is corrected inside, and the weakest decides. A rival that was not run is
named. What is no higher than the majority label is not resolved either. A channel that adds to all communicates if the
content of its message is shown to count; otherwise it only adapts the receiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from harness import stats
from harness.channels.registry import CHANNELS
from harness.channels.spec import channel_of, parse_channel
from harness.config.fields import MARGIN_POINTS
from harness.errors import UserError, unknown
from harness.records.schema import Sample
from harness.results.formatting import arm_text, interval_text, percent_text
from harness.results.grouping import (
    DERIVED,
    MAJORITY,
    NO_FACTS,
    RECEIVER,
    Arm,
    Facts,
    Table,
    cluster_names,
    entry_of,
    tables,
    top_level,
    yardstick,
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
        verdict: In words; a difference that only its unadjusted interval resolves says so, and one that is not
            resolved but shown to be small is the same within the margin.
        minimum_detectable: Smallest difference that an exact test of these pairs finds with 80% power at `level`; None
            where they are too few to find any.
        level: What Holm leaves to each test of the family: 0.05 over their number.
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
    level: float | None = None

    @property
    def title(self) -> str:
        """What the comparison is called in text."""
        return BY_NAME[self.kind].title


# A comparison and what it was computed from; None where nothing is left to compare.
Measured = tuple[Effect, stats.PairedDifference | None]


def effects(samples: Iterable[Sample], facts: Facts = NO_FACTS) -> list[Effect]:
    """Compares the arms of every top-level task or group.

    Args:
        samples: One run's samples.
        facts: What is known of the tasks; those of a group are compared together, not one by one, so that the
            family of tests stays as large as what is shown.

    Returns:
        By task, channel and kind; p adjusted by Holm over the whole list.
    """
    return [effect for effect, _ in adjust_family(compare_unadjusted(samples, facts))]


def compare_unadjusted(samples: Iterable[Sample], facts: Facts = NO_FACTS) -> list[Measured]:
    """Compares the arms of every top-level task or group, without adjusting for a family."""
    found = list(samples)
    shown = top_level(facts.groups, (sample.task for sample in found))
    return [one for table in tables(found, facts) if table.name in shown for one in _table_effects(table, facts.margin)]


def adjust_family(family: Sequence[Measured]) -> list[Measured]:
    """Adjusts the p-values of a family by Holm, and what each comparison could have found."""
    tested = [effect.p for effect, _ in family if effect.p is not None]
    p_holm = iter(stats.holm(tested) if tested else [])
    level = LEVEL / max(len(tested), 1)
    return [
        (effect if effect.p is None else _in_family(effect, pair, next(p_holm), level), pair) for effect, pair in family
    ]


def compare_any_two(table: Table, arm: Arm, base: Arm, margin: float = MARGIN_POINTS / 100) -> Effect:
    """Compares any two arms of a table, adjusted for no other comparison.

    Raises:
        KeyError: the table lacks one of them.
    """
    effect, pair = measured_pair(table, arm, base, margin)
    return effect if pair is None else replace(effect, minimum_detectable=pair.detectable_at(LEVEL), level=LEVEL)


def measured_pair(
    table: Table, arm: Arm, base: Arm, margin: float = MARGIN_POINTS / 100, kind: Kind | None = None
) -> Measured:
    """Compares any two arms of a table, for the caller to adjust.

    Raises:
        KeyError: the table lacks one of them.
    """
    return _effect(table, Comparison(arm[0], kind or AGAINST, arm, base), margin)


def comparisons(arms: Iterable[Arm]) -> Iterator[Comparison]:
    """Yields the comparisons that the arms at hand allow."""
    present = list(arms)
    for channel in dict.fromkeys(channel for channel, _ in present if channel not in DERIVED):
        for comparison in _channel_comparisons(channel, channel_arms=set(present)):
            if comparison.arm in present and comparison.base in present:
                yield comparison


def _channel_comparisons(channel: str, channel_arms: set[Arm]) -> Iterator[Comparison]:
    matched, mean, mismatched = (channel, ""), (channel, "mean"), (channel, "mismatched")
    entry = entry_of(channel)
    for kind in (TO_RECEIVER, TO_T2T, TO_TUNED):
        base = yardstick(kind.name, channel_arms)
        if base not in (None, matched) and (entry is None or kind.name not in entry.apart):
            yield Comparison(channel, kind, matched, base)
    yield Comparison(channel, CONTENT, matched, mean)
    yield Comparison(channel, MISINFORMATION, mean, mismatched)
    yield Comparison(channel, ADAPTATION, mean, RECEIVER)
    yield Comparison(channel, TO_SELF, matched, (channel, "self"))
    if mean not in channel_arms:
        yield Comparison(channel, TO_MISMATCHED, matched, mismatched)


def _table_effects(table: Table, margin: float) -> list[Measured]:
    return [_effect(table, comparison, margin) for comparison in comparisons(table.arms)]


def _effect(table: Table, comparison: Comparison, margin: float) -> Measured:
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
    if not kept:
        return empty, None
    found = _paired(table, [arm[key] for key in kept], [base[key] for key in kept])
    return _filled(empty, found, margin), found


def _paired(table: Table, arm: Sequence[Sample], base: Sequence[Sample]) -> stats.PairedDifference:
    ours, theirs = ([bool(sample.correct) for sample in side] for side in (arm, base))
    # The bootstrap beside the score interval is not shown.
    return stats.paired(ours, theirs, clusters=cluster_names(arm), resamples=1, strata=table.strata(arm))


def _filled(empty: Effect, found: stats.PairedDifference, margin: float) -> Effect:
    return replace(
        empty,
        verdict=stats.verdict(found, margin),
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        wins=found.wins,
        losses=found.losses,
        p=found.p_value,
    )


def _in_family(effect: Effect, found: stats.PairedDifference | None, p_holm: float, level: float) -> Effect:
    return replace(
        effect,
        p_holm=p_holm,
        verdict=after_holm(effect.verdict, p_holm),
        minimum_detectable=None if found is None else found.detectable_at(level),
        level=level,
    )


def after_holm(verdict: str, p_holm: float) -> str:
    """Says of a difference that was called higher or lower when the family takes that away."""
    alone = p_holm > LEVEL and verdict in (stats.HIGHER, stats.LOWER)
    return f"{verdict}{NOT_AFTER_HOLM}" if alone else verdict


COMMUNICATES, ADAPTS, NOT_RESOLVED, HARMS = "communicates", "adapts", "not resolved", "harms"

# Controls that keep a message's form without this question's content; the first that was run is taken.
_CONTENT_CONTROLS = ("mean", "mismatched")


@dataclass(frozen=True)
class Claim:
    """A channel's verdict on one task or group.

    Attributes:
        channel: With its options.
        verdict: `COMMUNICATES`, `ADAPTS`, `NOT_RESOLVED` or `HARMS`.
        rivals: The channel minus each rival arm that was run.
        missing: Rivals that were not run.
        content: The channel minus its mean message, or another question's; None where neither was run.
        majority: The channel minus the majority label; None where no question has a label.
        tuned: The channel minus the receiver fine-tuned alone; None where it was not run.
    """

    task: str
    channel: str
    verdict: str
    rivals: tuple[Effect, ...]
    missing: tuple[str, ...]
    content: Effect | None
    majority: Effect | None
    tuned: Effect | None

    @property
    def weakest(self) -> Effect | None:
        """The difference that decides: lower before not resolved before higher, then by its lower bound."""
        return min(self.rivals, key=_strength, default=None)

    @property
    def text(self) -> str:
        """The verdict as one sentence."""
        weakest = self.weakest
        gain = f"{self.channel} was compared with nothing" if weakest is None else f"{self.channel} {_adds(weakest)}"
        parts = [f"{gain}: {self.verdict}", self._explained()]
        parts += [_above(self.majority, "the majority label"), _above(self.tuned, "the receiver fine-tuned alone")]
        parts += [f"{name} was run as {' and '.join(variants)}" for name, variants in self._variants().items()]
        if self.missing:
            parts.append(f"not run: {', '.join(self.missing)}")
        return "; ".join(part for part in parts if part) + "."

    def _variants(self) -> dict[str, list[str]]:
        """Rivals that were run with options alone, which may be weaker than the usual ones."""
        run: dict[str, list[str]] = {}
        for one in self.rivals:
            run.setdefault(channel_of(one.base[0]), []).append(one.base[0])
        return {name: variants for name, variants in run.items() if name not in variants}

    def _explained(self) -> str:
        """What else gives the gain over the receiver."""
        weakest, over = self.weakest, next((one for one in self.rivals if one.base == RECEIVER), None)
        if weakest is None or over is None or not shown_higher(over):
            return ""
        if not shown_higher(weakest):
            return f"{_base_name(weakest)} explains its gain of {_points(over)} on the receiver"
        if self.content is None:
            controls = " nor ".join(_CONTENT_CONTROLS)
            return f"neither {controls} was run, so that the mere form of the message may explain the gain"
        shown = f"content {_points(self.content)}"
        return shown if shown_higher(self.content) else f"the mere form of its message explains the gain ({shown})"


def claims(samples: Iterable[Sample], facts: Facts = NO_FACTS) -> list[Claim]:
    """Judges every channel with a message on every top-level task or group, channels in their usual order."""
    answers = list(samples)
    shown = top_level(facts.groups, (sample.task for sample in answers))
    judged = (_table_claims(table) for table in tables(answers, facts) if table.name in shown)
    return list(chain.from_iterable(judged))


def compare(samples: Iterable[Sample], arm: Arm, base: Arm, facts: Facts = NO_FACTS) -> list[Effect]:
    """Compares two arms on every top-level task or group, adjusted for no other comparison.

    Raises:
        UserError: no task has answers of one of them.
    """
    answers = list(samples)
    shown = top_level(facts.groups, (sample.task for sample in answers))
    found = [table for table in tables(answers, facts) if table.name in shown]
    present = list(dict.fromkeys(one for table in found for one in table.arms))
    for wanted in (arm, base):
        if wanted not in present:
            raise unknown("arm", arm_text(*wanted), [arm_text(*one) for one in present])
    both = (table for table in found if arm in table.arms and base in table.arms)
    return [compare_any_two(table, arm, base, facts.margin) for table in both]


def arms_of(text: str) -> tuple[Arm, Arm]:
    """Reads `A,B`, two arms as tables name them, options in any order: `c2c,ensemble` or `c2c/mean,receiver`.

    Raises:
        UserError: there are not two different ones.
    """
    names = [part.strip() for part in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise UserError(f"--compare takes two different arms, as in c2c,ensemble or c2c/mean,receiver; got {text!r}.")
    (channel, _, control), (base, _, base_control) = (name.partition("/") for name in names)
    return (_as_recorded(channel), control), (_as_recorded(base), base_control)


def _as_recorded(channel: str) -> str:
    """A channel with its options in the order of records; one that is not known here, or not so, as it was given."""
    try:
        return parse_channel(channel).text
    except UserError:
        return channel


def shown_higher(effect: Effect) -> bool:
    """Whether a difference is shown to be positive, by itself."""
    return effect.low is not None and effect.low > 0 and effect.p is not None and effect.p <= LEVEL


def shown_lower(effect: Effect) -> bool:
    """Whether a difference is shown to be negative, by itself."""
    return effect.high is not None and effect.high < 0 and effect.p is not None and effect.p <= LEVEL


def has_message(channel: str) -> bool:
    """Whether a channel, with its options, sends a message."""
    entry = entry_of(channel)
    return entry is not None and bool(entry.message)


def _table_claims(table: Table) -> list[Claim]:
    return [_claim(table, arm) for arm in table.arms if not arm[1] and has_message(arm[0])]


def _claim(table: Table, arm: Arm) -> Claim:
    names = [entry.name for entry in CHANNELS.own() if entry.rival and entry.name != channel_of(arm[0])]
    bases = [other for other in table.arms if not other[1] and _rivals(other[0], arm[0])]
    rivals = [compare_any_two(table, arm, base) for base in bases]
    counted = tuple(one for one in rivals if one.difference is not None)
    run = {channel_of(one.base[0]) for one in counted}
    content = _first(table, arm, [(arm[0], control) for control in _CONTENT_CONTROLS])
    majority = _first(table, arm, [MAJORITY])
    tuned = yardstick(TO_TUNED.name, table.arms)
    missing = tuple(name for name in names if name not in run)
    return Claim(
        task=table.name,
        channel=arm[0],
        verdict=_verdict(counted, missing, content, majority),
        rivals=counted,
        missing=missing,
        content=content,
        majority=majority,
        tuned=_first(table, arm, [] if tuned is None else [tuned]),
    )


def _rivals(other: str, channel: str) -> bool:
    """Whether a channel is judged against another one; variants of one channel are no rivals."""
    entry = entry_of(other)
    return entry is not None and entry.rival and entry.name != channel_of(channel)


def _first(table: Table, arm: Arm, bases: Sequence[Arm]) -> Effect | None:
    found = (compare_any_two(table, arm, base) for base in bases if base in table.arms)
    return next((one for one in found if one.difference is not None), None)


def _above(effect: Effect | None, base: str) -> str:
    if effect is None:
        return ""
    points = _points(effect)
    return f"above {base} by {points}" if shown_higher(effect) else f"not above {base} (by {points})"


def _verdict(rivals: Sequence[Effect], missing: Sequence[str], content: Effect | None, majority: Effect | None) -> str:
    if any(one.base == RECEIVER and shown_lower(one) for one in rivals):
        return HARMS
    # A rival that was not run may explain the gain.
    above = bool(rivals) and not missing and all(map(shown_higher, rivals))
    if not above or content is None or (majority and not shown_higher(majority)):
        return NOT_RESOLVED
    return COMMUNICATES if shown_higher(content) else ADAPTS


def _strength(effect: Effect) -> tuple[int, float]:
    return (
        0 if shown_lower(effect) else 2 if shown_higher(effect) else 1,
        effect.low if effect.low is not None else -1.0,
    )


def _adds(effect: Effect) -> str:
    base = _base_name(effect)
    if effect.difference is not None and effect.difference < 0:
        return f"is {_points(effect, sign=-1)} points below {base}"
    return f"adds {_points(effect)} to {base}"


def _base_name(effect: Effect) -> str:
    """Models and baselines are common nouns, channels with a message are names."""
    name = arm_text(*effect.base)
    return name if has_message(effect.base[0]) else f"the {name}"


def _points(effect: Effect, sign: int = 1) -> str:
    """Points without a plus: the words around it say the direction."""
    value, *bounds = (
        round(sign * one, 6) + 0.0 for one in (effect.difference or 0.0, effect.low or 0.0, effect.high or 0.0)
    )
    return f"{percent_text(value)} {interval_text(min(bounds), max(bounds))}"
