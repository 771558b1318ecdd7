"""How many questions a second went through somebody else's engine, and under which conditions.

A batched figure, never a latency: an engine answers many questions side by side. It covers what was asked in this
session of a run; answers of an earlier one do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from harness.config import RunConfig
from harness.config.served import OWN
from harness.inference.types import CallStats
from harness.records.schema import Engine, Throughput
from harness.records.secret import scrub
from harness.results.wording import seconds_text


def engine_of(config: RunConfig) -> Engine | None:
    """Names the engine for the record; None for our own."""
    if config.backend == OWN:
        return None
    return Engine(
        backend=config.backend,
        lm_eval=metadata.version("lm-eval"),
        receiver_args=scrub(config.receiver_args),
        sharer_args=scrub(config.sharer_args),
    )


def throughput_of(config: RunConfig, work: Mapping[str, CallStats]) -> dict[str, Throughput]:
    """Sums up every channel's pass; controls are left out, since they share the sharer's messages.

    Args:
        config: of the run.
        work: arm -> what it took.
    """
    conditions = (
        f"batched, {config.batch_size} questions handed to {config.backend} at once; rendering prompts, reading "
        "answers and failed calls included"
    )
    return {
        name: Throughput(
            questions=done.answered,
            seconds=done.busy_s,
            questions_per_second=done.answered / done.busy_s,
            conditions=conditions,
        )
        for name, done in work.items()
        if done.answered and done.busy_s > 0 and "/" not in name
    }


def throughput_lines(found: Mapping[str, Throughput]) -> list[str]:
    """One line a channel for the terminal."""
    return [
        f"{name}: {t.questions_per_second:.3g} questions/s ({t.questions} in {seconds_text(t.seconds)}; {t.conditions})"
        for name, t in found.items()
    ]
