"""The least that an optimizer step of fuser training must cost.

Guarantees arithmetic on the lessons' own layout. The frozen models are charged their prompt passes without a way back,
the response's pass with one, the fuser its forward pass and the gradients of its weights and of what earlier fusion
has changed, the optimizer its bytes. What a setting chooses to do twice (recomputation) is not charged.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from harness.bench.arms import Calls
from harness.bench.counted import fusion_backward_flops
from harness.bench.floor import Cost, fused_numbers, fusion_cost, fusion_weights, model_cost
from harness.channels.c2c import Link
from harness.channels.layout import Span
from harness.fusion.interface import FuserModule
from harness.models import LM
from harness.training.channel import GraphChannel
from harness.training.lessons import Lesson

MASTER_BYTES = 4  # of one weight, its gradient, or one moment
# The norm reads every gradient; the update reads it again, and reads and writes the weight and both moments.
_OPTIMIZER_PASSES = 1 + 1 + 3 * 2


def step_calls(channel: GraphChannel, micros: Sequence[Sequence[Lesson]], trained: nn.Module, kept: bool) -> Calls:
    """What a step cannot do without, by part.

    Args:
        channel: with one link, under training.
        micros: lessons of the step's micro batches, alike within a batch.
        trained: whose parameters the optimizer updates.
        kept: the prompts' caches are there already.
    """
    calls: Calls = {}
    for number, lessons in enumerate(micros):
        for part, costs in _micro_calls(channel, lessons, number > 0, kept).items():
            calls.setdefault(part, []).extend(costs)
    return calls | {"optimizer": [optimizer_cost(trained)]}


def optimizer_cost(trained: nn.Module) -> Cost:
    """Clipping and AdamW: a handful of operations a weight, so bytes alone."""
    weights = sum(value.numel() for value in trained.parameters())
    return Cost(0.0, float(_OPTIMIZER_PASSES * MASTER_BYTES * weights))


def fuser_forward(fuser: FuserModule, entries: tuple[int, ...], tokens: int, element_bytes: int) -> Cost:
    """The fusion, reading master weights."""
    plain = fusion_cost(fuser, tokens, element_bytes, entries)
    return Cost(plain.flops, plain.bytes_moved + (MASTER_BYTES - element_bytes) * fusion_weights(fuser, entries))


def fuser_backward(
    fuser: FuserModule, entries: tuple[int, ...], tokens: int, element_bytes: int, *, first: bool, adds: bool
) -> Cost:
    """The backward pass of a fusion: counted operations; gradients of all weights, and of K and V where they need one.

    Args:
        fuser: of any form.
        entries: that are trained.
        tokens: fused.
        element_bytes: of K and V.
        first: nothing was fused before, so K and V as they come in need no gradient.
        adds: to gradients of earlier micro batches.
    """
    flops = fusion_backward_flops(cast("Any", type(fuser)), fuser.config, entries, tokens, to_receiver=not first)
    weights = fusion_weights(fuser, entries)
    moved = element_bytes * fused_numbers(fuser, entries, tokens)
    return Cost(float(flops), moved + (2 + adds) * MASTER_BYTES * weights)


def _micro_calls(channel: GraphChannel, lessons: Sequence[Lesson], adds: bool, kept: bool) -> Calls:
    lesson, rows, lm, link = lessons[0], len(lessons), channel.answers, channel.links[0]
    cost = model_cost(lm.config, lm.dtype.itemsize)
    fused = link.fuser, link.entries
    spans = list(itertools.pairwise(lesson.cuts))
    silent = [span for span in spans if span[1] <= lesson.fused[0][1]]
    behind = [_shape(lesson, rows, span) for span in spans[len(silent) :]]
    sizes = [rows * (b - a) for a, b in lesson.fused]
    prompts = _kept(link, lm, lesson, rows) if kept else _prompts(link, lesson, rows)
    return prompts | {
        "receiver_prompt": [] if kept else [cost.call(rows, b - a, a, cache_only=True) for a, b in silent],
        "fuser_forward": [fuser_forward(*fused, tokens, cost.element_bytes) for tokens in sizes],
        "response_forward": [cost.call(**shape) for shape in behind],
        "response_backward": [cost.backward(**shape) for shape in behind],
        "fuser_backward": [
            fuser_backward(*fused, tokens, cost.element_bytes, first=number == 0, adds=adds)
            for number, tokens in enumerate(sizes)
        ],
    }


def _shape(lesson: Lesson, rows: int, span: Span) -> dict[str, Any]:
    """Arguments of `ModelCost.call` for a stretch of the receiver's row."""
    start, end = span
    logits = max(0, end - max(start, lesson.prompt_length - 1))
    return {"rows": rows, "new": end - start, "past": start, "logits": logits, "cache_only": not logits}


def _prompts(link: Link, lesson: Lesson, rows: int) -> Calls:
    sharer = model_cost(link.sharer.config, link.sharer.dtype.itemsize)
    payload = rows * lesson.n_fused * len(link.sent) * link.fuser.config.sharer_dim * link.sharer.dtype.itemsize
    return {
        "sharer_prompt": [sharer.call(rows, lesson.fused_end, cache_only=True)],
        "message_transfer": [Cost(0.0, 2.0 * payload)],
    }


def _kept(link: Link, lm: LM, lesson: Lesson, rows: int) -> Calls:
    """Both caches are copied into the batch."""
    sent = lesson.n_fused * len(link.sent) * link.fuser.config.sharer_dim * link.sharer.dtype.itemsize
    cost = model_cost(lm.config, lm.dtype.itemsize)
    clean = lesson.cuts[1] * cost.layers * cost.kv_width * cost.element_bytes
    return {"kept_prompts": [Cost(0.0, 2.0 * rows * (sent + clean))]}
