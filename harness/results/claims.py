"""What may be claimed of a channel with a message: one verdict in words, and what explains its gain.

A channel has to add to each of its rivals (receiver, sharer, ensemble, T2T). That is an intersection-union test: each
difference is tested at its own level, nothing is corrected inside, and the weakest difference decides. A rival that
was not run is named. What stands no higher than the majority label is not resolved either. A channel that adds to all
of them communicates if the content of its message is shown to count; otherwise it only adapts the receiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from harness.channels.registry import CHANNELS
from harness.channels.spec import channel_of
from harness.errors import UserError, unknown
from harness.records.schema import Sample
from harness.results.baselines import MAJORITY
from harness.results.effects import LEVEL, TO_TUNED, Effect, compared
from harness.results.groups import NO_FACTS, RECEIVER, Arm, Facts, Table, entry_of, tables, top_level, yardstick
from harness.results.wording import arm_text, interval_text, percent_text

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
        if self.missing:
            parts.append(f"not run: {', '.join(self.missing)}")
        return "; ".join(part for part in parts if part) + "."

    def _explained(self) -> str:
        """What else gives the gain over the receiver."""
        weakest, over = self.weakest, next((one for one in self.rivals if one.base == RECEIVER), None)
        if weakest is None or over is None or not higher(over):
            return ""
        if not higher(weakest):
            return f"the {arm_text(*weakest.base)} explains its gain of {_points(over)} on the receiver"
        if self.content is None:
            return "no control was run, so that the mere form of the message may explain the gain"
        shown = f"content {_points(self.content)}"
        return shown if higher(self.content) else f"the mere form of its message explains the gain ({shown})"


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
    return [compared(table, arm, base, facts.margin) for table in both]


def arms_of(text: str) -> tuple[Arm, Arm]:
    """Reads `A,B`, two arms as tables name them, such as `c2c,ensemble` or `c2c/mean,receiver`.

    Raises:
        UserError: there are not two different ones.
    """
    names = [part.strip() for part in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise UserError(f"--compare takes two different arms, as in c2c,ensemble or c2c/mean,receiver; got {text!r}.")
    (channel, _, control), (base, _, base_control) = (name.partition("/") for name in names)
    return (channel, control), (base, base_control)


def higher(effect: Effect) -> bool:
    """Whether a difference is shown to be positive, by itself."""
    return effect.low is not None and effect.low > 0 and effect.p is not None and effect.p <= LEVEL


def lower(effect: Effect) -> bool:
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
    rivals = [compared(table, arm, base) for base in bases]
    counted = tuple(one for one in rivals if one.difference is not None)
    run = {channel_of(one.base[0]) for one in counted}
    content = _first(table, arm, [(arm[0], control) for control in _CONTENT_CONTROLS])
    majority = _first(table, arm, [MAJORITY])
    tuned = yardstick(TO_TUNED.name, table.arms)
    return Claim(
        task=table.name,
        channel=arm[0],
        verdict=_verdict(counted, content, majority),
        rivals=counted,
        missing=tuple(name for name in names if name not in run),
        content=content,
        majority=majority,
        tuned=_first(table, arm, [] if tuned is None else [tuned]),
    )


def _rivals(other: str, channel: str) -> bool:
    """Whether a channel is judged against another one; variants of one channel are no rivals."""
    entry = entry_of(other)
    return entry is not None and entry.rival and entry.name != channel_of(channel)


def _first(table: Table, arm: Arm, bases: Sequence[Arm]) -> Effect | None:
    found = (compared(table, arm, base) for base in bases if base in table.arms)
    return next((one for one in found if one.difference is not None), None)


def _above(effect: Effect | None, base: str) -> str:
    if effect is None:
        return ""
    points = _points(effect)
    return f"above {base} by {points}" if higher(effect) else f"not above {base} (by {points})"


def _verdict(rivals: Sequence[Effect], content: Effect | None, majority: Effect | None) -> str:
    if any(one.base == RECEIVER and lower(one) for one in rivals):
        return HARMS
    if not rivals or content is None or not all(map(higher, rivals)) or (majority and not higher(majority)):
        return NOT_RESOLVED
    return COMMUNICATES if higher(content) else ADAPTS


def _strength(effect: Effect) -> tuple[int, float]:
    return (0 if lower(effect) else 2 if higher(effect) else 1, effect.low if effect.low is not None else -1.0)


def _adds(effect: Effect) -> str:
    base = f"the {arm_text(*effect.base)}"
    if effect.difference is not None and effect.difference < 0:
        return f"is {_points(effect, sign=-1)} points below {base}"
    return f"adds {_points(effect)} to {base}"


def _points(effect: Effect, sign: int = 1) -> str:
    """Points without a plus: the words around it say the direction."""
    value, *bounds = (
        round(sign * one, 6) + 0.0 for one in (effect.difference or 0.0, effect.low or 0.0, effect.high or 0.0)
    )
    return f"{percent_text(value)} {interval_text(min(bounds), max(bounds))}"
