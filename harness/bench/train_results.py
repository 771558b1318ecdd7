"""What a bench of training measured: seconds of optimizer steps, beside their floor.

Guarantees that every figure can be made again from the raw values in the file, and needs no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harness.bench.results import Series

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
