"""Channels without a model pass, composed from answers and times of other channels of the same run: routing.

Routing sends each question to one of two models, by a score that costs no pass beyond those of the models. One share,
or one threshold, decides over the whole task, because a router that has to send away half of every part cannot send
away the half that should go. The answers are those of the two models alone, so nothing is asked again. The floor is the
random router, which sends away as many questions and is recorded under the control `random`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.channels.registry import RoutedOptions
from harness.channels.spec import ChannelSpec
from harness.records.schema import Sample, Timing
from harness.registry import resolve


@dataclass(frozen=True)
class Sources:
    """What one whole task or group offers to a composed channel.

    Attributes:
        samples: channel -> its answers as sent, one a question; questions that failed are among them.
        timings: channel -> its timings.
        seed: of the run.
    """

    samples: Mapping[str, Sequence[Sample]]
    timings: Mapping[str, Sequence[Timing]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Composed:
    """Answers and times of a composed channel, its floor under a control of its own."""

    samples: list[Sample]
    timings: list[Timing] = field(default_factory=list)


def compose(spec: ChannelSpec, samples: Sequence[Sample], timings: Sequence[Timing], seed: int) -> Composed:
    """Composes one channel over one whole task or group, under the name by which it was asked for."""
    reads = spec.entry.reads
    sources = Sources(
        {name: [s for s in samples if s.arm == (name, "")] for name in reads},
        {name: [t for t in timings if (t.channel, t.control) == (name, "")] for name in reads},
        seed,
    )
    made: Composed = resolve(spec.entry.compose)(sources, spec.options)
    return Composed(
        [sample.model_copy(update={"channel": spec.text}) for sample in made.samples],
        [timing.model_copy(update={"channel": spec.text}) for timing in made.timings],
    )


FLOOR = "random"

_UNKNOWN = float("inf")

Key = tuple[str, str]

Score = Callable[[Sample, Sample], float]  # (receiver's answer, sharer's answer) -> nats; higher goes to the sharer


def _entropy(sample: Sample) -> float:
    return _UNKNOWN if sample.entropy is None else sample.entropy


def _difference(receiver: Sample, sharer: Sample) -> float:
    if receiver.entropy is None or sharer.entropy is None:
        return _UNKNOWN if receiver.entropy is None else -_UNKNOWN
    return receiver.entropy - sharer.entropy


_SCORES: Mapping[str, Score] = {
    "receiver_entropy": lambda receiver, _: _entropy(receiver),
    "sharer_entropy": lambda _, sharer: -_entropy(sharer),
    "difference": _difference,
}

# Whose first token must be known before the router can decide, beside the model that then answers.
_ASKS: Mapping[str, tuple[str, ...]] = {
    "receiver_entropy": ("receiver",),
    "sharer_entropy": ("sharer",),
    "difference": ("receiver", "sharer"),
    "random": (),
}


def compose_routed(sources: Sources, options: RoutedOptions) -> Composed:
    """Routes one whole task, and its floor unless the router is the random one itself."""
    receiver = {(s.task, s.doc_id): s for s in sources.samples["receiver"]}
    sharer = {(s.task, s.doc_id): s for s in sources.samples["sharer"]}
    both = sorted(receiver.keys() & sharer.keys(), key=lambda key: (key[0], receiver[key].position, key[1]))
    away = _sent_away(both, receiver, sharer, options, sources.seed)
    chance = _drawn(both, len(away), sources.seed)
    routers: list[tuple[str, str, set[Key]]] = [("", options.by, chance if options.by == "random" else away)]
    if options.by != "random":
        routers.append((FLOOR, "random", chance))
    composed = Composed([], [])
    for control, by, sent in routers:
        composed.samples.extend(_sample(receiver[key], sharer[key], key in sent, by, control) for key in both)
        composed.timings.extend(_timings(sources, sent, by, control))
    return composed


def _sent_away(
    both: Sequence[Key],
    receiver: Mapping[Key, Sample],
    sharer: Mapping[Key, Sample],
    options: RoutedOptions,
    seed: int,
) -> set[Key]:
    count = round(options.share * len(both))
    if options.by == "random":
        return _drawn(both, count, seed)
    scores = {key: _SCORES[options.by](receiver[key], sharer[key]) for key in both}
    if options.threshold is not None:
        return {key for key in both if scores[key] >= options.threshold}
    return set(sorted(both, key=lambda key: (-scores[key], key))[:count])


def _drawn(both: Sequence[Key], count: int, seed: int) -> set[Key]:
    return set(random.Random(seed).sample(list(both), count))  # noqa: S311 - reproducible, not secret


def _sample(receiver: Sample, sharer: Sample, away: bool, by: str, control: str) -> Sample:
    chosen, name = (sharer, "sharer") if away else (receiver, "receiver")
    read = {name, *_ASKS[by]}
    tokens = sum(model.prompt_tokens for model, role in ((receiver, "receiver"), (sharer, "sharer")) if role in read)
    return chosen.model_copy(update={"control": control, "routed_to": name, "prompt_tokens": tokens})


def _timings(sources: Sources, away: set[Key], by: str, control: str) -> list[Timing]:
    """Times as a router pays them: the first tokens that it decides by, then the model that answers."""
    by_turn = {
        name: {(t.task, t.doc_id, t.round, t.equal_length): t for t in sources.timings.get(name, ())}
        for name in ("receiver", "sharer")
    }
    timings = []
    for turn in by_turn["receiver"]:
        if turn not in by_turn["sharer"]:
            continue
        name = "sharer" if turn[:2] in away else "receiver"
        asked = [by_turn[other][turn] for other in _ASKS[by] if other != name]
        timings.append(_after(by_turn[name][turn], asked, control))
    return timings


def _after(chosen: Timing, asked: Sequence[Timing], control: str) -> Timing:
    waited_s = sum(timing.ttft_s for timing in asked)
    stages_s = dict(chosen.stages_s)
    for timing in asked:
        for stage, seconds in timing.stages_s.items():
            if stage.endswith("_prefill"):
                stages_s[stage] = stages_s.get(stage, 0.0) + seconds
    return chosen.model_copy(
        update={
            "control": control,
            "ttft_s": chosen.ttft_s + waited_s,
            "e2e_s": chosen.e2e_s + waited_s,
            "stages_s": stages_s,
            "cpu_s": None if asked else chosen.cpu_s,  # of the first tokens alone it is not known
            "same_answer": None,
        }
    )
