"""A task's accuracy while training, through the channel as it is evaluated.

Guarantees the prompts, engine and scorer of a run, with hard gates; a question that fails is counted among those
asked, never as a right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.accuracy import Item, to_sample
from harness.channels.base import Channel
from harness.channels.engine import Arm, run
from harness.config import build
from harness.inference.batching import Budget
from harness.inference.types import CallStats
from harness.loading_tasks import load_benchmark


@dataclass(frozen=True)
class Score:
    """Questions asked, how many were answered right, and how many failed."""

    asked: int
    right: int
    errors: int


def load_quizzes(names: Sequence[str], limit: int | None, rank: int = 0, world: int = 1) -> dict[str, list[Item]]:
    """Loads tasks, groups flattened, and this process's share of their questions.

    Raises:
        UserError: if a name is unknown or a task's data is missing.
    """
    if not names:
        return {}
    found = load_benchmark(build({"tasks": list(names), "limit": limit}, "validate_tasks"))
    return {name: items[rank::world] for name, items in found.items.items()}


def score(items: Sequence[Item], channel: Channel, batch_size: int) -> Score:
    """Asks questions through a channel."""
    right, errors = 0, 0
    for outcome in run(channel, [Arm(channel)], [item.request for item in items], Budget(batch_size), [CallStats()]):
        for place, answer in zip(outcome.indices, outcome.answers[0], strict=True):
            sample = to_sample(items[place], channel.name, "", answer)
            right, errors = right + bool(sample.correct), errors + (sample.error is not None)
    return Score(len(items), right, errors)
