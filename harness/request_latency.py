"""Latency of a model behind lm-eval: some requests of each task, answered once more, alone and after warm-up.

Guarantees the conditions of the harness's own latency pass, whose clock and draw it uses; lm-eval itself hands requests
over in batches, from which no latency can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.channels.base import Channel
from harness.inference.types import Request
from harness.latency import ROUNDS, draw, measured, timed_alone
from harness.records.schema import Timing
from harness.results.rows import latency_fields


def latency_of(
    channel: Channel, asked: Mapping[str, Sequence[Request]], samples: int, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Times requests of every task.

    Args:
        channel: what answers.
        asked: task -> its requests.
        samples: how many of each task are timed, drawn with a fixed seed.
        warm_up: of these, how many are answered before timing starts.

    Returns:
        Task -> seconds (``ttft_s_p50``, ``e2e_s_p50``, ``tpot_s_p50``, ...) by the names of the harness's own results,
        and the conditions. Options have no time per token: they are scored, and their first token is their last.
    """
    found = {}
    for task, requests in asked.items():
        drawn = draw(requests, samples, seed=0)
        for request in drawn[:warm_up]:
            timed_alone(channel, request)
        rounds = range(ROUNDS)
        timings = [t for r in rounds for t in (_timing(channel, task, i, q, r) for i, q in enumerate(drawn)) if t]
        conditions = f"batch 1, {min(warm_up, len(drawn))} warm-up requests, {ROUNDS} rounds of {len(drawn)} requests"
        found[task] = {**latency_fields(timings), "conditions": conditions}
    return found


def _timing(channel: Channel, task: str, position: int, request: Request, round_: int) -> Timing | None:
    timed = timed_alone(channel, request)
    answer = timed.answer
    if answer.fault is not None:
        return None
    return Timing(
        task=task,
        doc_id=str(position),
        position=position,
        channel=channel.name,
        round=round_,
        **measured(timed, request),
        tokens_out=len(answer.tokens) or len(answer.scored[:1]),
    )
