"""Short ways to drive a channel and to collect what an engine run answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.channels.engine import Arm, run
from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.inference.batching import Budget
from harness.inference.generate import Generation, generate
from harness.inference.types import Answer, CallStats, Context, Query, Request
from harness.models.chat import user_turn
from harness.models.lm import LM

BUDGET = 12
SENTENCES = (
    "Hi",
    "Why is the sky blue?",
    "Café naïve 北京 🙂 — what does it mean?",
    "The river bends north, then east.\nWhere does it end, and who lives at its banks?",
    "def add(a, b):\n    return a + b",
)


def query(text: str, **more: Any) -> Query:
    """A query of one user turn, whose bare question is the same text where there is any."""
    return Query(user_turn(text, prefix=more.pop("prefix", "")), question=text.strip() or "?", **more)


def context_of(channel: Channel, queries: Sequence[Query], work: CallStats | None = None) -> Context:
    """Both halves of a channel."""
    charged = work or CallStats()
    with torch.inference_mode():
        return channel.receive(queries, channel.send(queries, charged), charged)


def read(lm: LM, texts: Sequence[str], work: CallStats | None = None) -> Context:
    """Prompts as the model reads them alone."""
    return context_of(Single(lm), [query(t) for t in texts], work)


def answers(
    channel: Channel, requests: Sequence[Request], budget: Budget | None = None, work: CallStats | None = None
) -> list[Answer]:
    """What one arm answers, in the order of the requests."""
    found: dict[int, Answer] = {}
    for outcome in run(channel, [Arm(channel)], requests, budget or Budget(), [work or CallStats()]):
        assert not set(found) & set(outcome.indices)
        found |= dict(zip(outcome.indices, outcome.answers[0], strict=True))
    assert sorted(found) == list(range(len(requests)))
    return [found[i] for i in range(len(requests))]


def written(lm: LM, texts: Sequence[str], stops: Sequence[tuple[str, ...]], **more: Any) -> list[Generation]:
    """What the model decodes alone; `budget` tokens at most."""
    with torch.inference_mode():
        return generate(read(lm, texts), more.pop("budget", BUDGET), stops, CallStats(), **more)
