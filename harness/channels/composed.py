"""Channels without a model pass: their answers and times are composed of other channels' of the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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


def whole_tasks(groups: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> Iterator[list[str]]:
    """Yields the tasks that are one whole, largest groups first, every task once."""
    seen: set[str] = set()
    wholes = [*sorted(groups.values(), key=len, reverse=True), *([task] for task in tasks)]
    for whole in wholes:
        left = [task for task in whole if task not in seen]
        seen.update(left)
        if left:
            yield left
