"""What a bench measured: raw seconds first, everything else derived from them.

Holds the timings of answers and of optimizer steps, the latter beside their floor. Guarantees that every figure can be
made again from the raw values in the file, and needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

BASELINE = "transformers"


@dataclass(frozen=True)
class Series:
    """Raw seconds of one thing, a value a repetition, and the floor beneath them."""

    raw_s: tuple[float, ...]
    floor_s: float | None = None

    @property
    def median_s(self) -> float:
        """The middle of the raw values."""
        return float(np.median(self.raw_s))

    @property
    def p90_s(self) -> float:
        """Nine in ten repetitions took no longer."""
        return float(np.quantile(self.raw_s, 0.9))

    @property
    def ratio(self) -> float | None:
        """Median over floor."""
        return self.median_s / self.floor_s if self.floor_s else None

    def as_dict(self) -> dict[str, Any]:
        """The raw values with what follows from them."""
        return {**asdict(self), "median_s": self.median_s, "p90_s": self.p90_s, "ratio_to_floor": self.ratio}


@dataclass(frozen=True)
class Cell:
    """The conditions of one comparison; `new_tokens` 0 means that options were scored."""

    dtype: str
    prompt_tokens: int
    batch_size: int
    new_tokens: int


@dataclass(frozen=True)
class Result:
    """One arm in one cell.

    Attributes:
        total: from the questions to the answers.
        ttft: to the first token, where it is known.
        stages: by stage.
        peak_bytes: by which memory rose above weights and all that was there before; None where nobody knows.
        cache_bytes: of the receiver's cache, part of the peak.
        payload_bytes: crossed, for one question.
        tokens_out: decoded for all questions of the batch.
        times_baseline: median over the median of `BASELINE` in the same cell.
    """

    arm: str
    cell: Cell
    total: Series
    ttft: Series | None = None
    stages: dict[str, Series] = field(default_factory=dict)
    peak_bytes: int | None = None
    cache_bytes: int = 0
    payload_bytes: int = 0
    tokens_out: int = 0
    times_baseline: float | None = None

    @property
    def questions_per_s(self) -> float:
        """Questions answered a second."""
        return self.cell.batch_size / self.total.median_s

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens decoded a second, the prompt's reading included in the time."""
        return self.tokens_out / self.total.median_s if self.tokens_out else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "arm": self.arm,
            **asdict(self.cell),
            "total": self.total.as_dict(),
            "ttft": self.ttft.as_dict() if self.ttft else None,
            "stages": {name: series.as_dict() for name, series in self.stages.items()},
            "questions_per_s": self.questions_per_s,
            "tokens_per_s": self.tokens_per_s,
            "peak_bytes": self.peak_bytes,
            "cache_bytes": self.cache_bytes,
            "payload_bytes": self.payload_bytes,
            "times_baseline": self.times_baseline,
        }


class Finding(Protocol):
    """What the tables and plots know of a result."""

    @property
    def arm(self) -> str:
        """Who."""

    @property
    def cell(self) -> Any:
        """Under which conditions."""

    @property
    def total(self) -> Series:
        """How long."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""


Found = TypeVar("Found", bound=Finding)


@dataclass(frozen=True)
class Bench(Generic[Found]):
    """Everything that one call of the bench found.

    Attributes:
        about: settings, machine and packages.
        speeds: by dtype, operations and bytes a second of this machine.
    """

    about: dict[str, Any]
    speeds: dict[str, dict[str, float]]
    results: tuple[Found, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"about": self.about, "speeds": self.speeds, "results": [r.as_dict() for r in self.results]}


def arms_of(results: Iterable[Finding]) -> list[str]:
    """Names of the arms in the order in which they first appear."""
    return list(dict.fromkeys(r.arm for r in results))


def in_cell(results: Sequence[Found]) -> dict[Any, list[Found]]:
    """Groups results by cell."""
    grouped: dict[Any, list[Found]] = {}
    for result in results:
        grouped.setdefault(result.cell, []).append(result)
    return grouped


PLAIN = "plain"


@dataclass(frozen=True)
class TrainCell:
    """The conditions of one comparison.

    Attributes:
        dtype: of the frozen models and of the fuser's products.
        prompt_tokens: of each row, template included.
        response_tokens: of each row; the loss falls on them.
        rows: of a micro batch.
        micro_batches: of an optimizer step.
    """

    dtype: str
    prompt_tokens: int
    response_tokens: int
    rows: int
    micro_batches: int = 1


@dataclass(frozen=True)
class TrainResult:
    """One way of training in one cell.

    Attributes:
        total: one optimizer step.
        cpu_s: processor time of the same steps, over all threads.
        floors_s: the floor by part.
        losses: of the timed steps, in nats a token.
        response_tokens: of all rows of a step.
        prompt_tokens: of all rows of a step, as the receiver reads them.
        held_bytes: models, fuser, optimizer state and kept caches, which lie there between steps.
        peak_bytes: by which memory rose above that during a step, gradients included; None where nobody knows.
        times_plain: median over the median of `PLAIN` in the same cell.
    """

    arm: str
    cell: TrainCell
    total: Series
    cpu_s: tuple[float, ...] = ()
    floors_s: dict[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    response_tokens: int = 0
    prompt_tokens: int = 0
    held_bytes: int = 0
    peak_bytes: int | None = None
    times_plain: float | None = None

    @property
    def response_tokens_per_s(self) -> float:
        """Tokens learned from in a second."""
        return self.response_tokens / self.total.median_s

    @property
    def all_tokens_per_s(self) -> float:
        """Tokens of prompts and responses that a second of training covers."""
        return (self.prompt_tokens + self.response_tokens) / self.total.median_s

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        plain = {name: getattr(self, name) for name in ("arm", "floors_s", "cpu_s", "losses", "times_plain")}
        tokens = {"response_tokens": self.response_tokens, "prompt_tokens": self.prompt_tokens}
        return {
            **plain,
            "cell": asdict(self.cell),
            "total": self.total.as_dict(),
            "tokens_of_a_step": tokens,
            "response_tokens_per_s": self.response_tokens_per_s,
            "prompt_and_response_tokens_per_s": self.all_tokens_per_s,
            "held_bytes": self.held_bytes,
            "peak_bytes": self.peak_bytes,
        }
