"""From a prefilled batch to answers: options scored, labels named, texts decoded; the same for every channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from harness.decoding import combined, entropies, generate, score
from harness.inference.types import Answer, CallStats, Context, Request, Scored

# What an ensemble's sharer sends is a float32 probability for each option or word.
_PROBABILITY_BYTES = 4


def read_answers(context: Context, requests: list[Request], work: CallStats, stage: str) -> list[Answer]:
    """Scores or decodes, whichever the requests want.

    Args:
        context: the batch; its cache is used up.
        requests: of one kind, a row each.
        work: is charged.
        stage: name under which scoring and decoding are timed.

    Returns:
        One answer a request. `payload_bytes` are those of a companion's probabilities; where the context has no
        companion, the caller knows what crossed.
    """
    if requests[0].options:
        answers = _scored(context, work, stage)
        work.clock.mark("first_token")
    elif all(context.options):
        answers = _named(_scored(context, work, stage), requests, work)
    else:
        answers = _decoded(context, requests, work, stage)
    return [replace(a, prompt_tokens=n) for a, n in zip(answers, context.prompt_tokens, strict=True)]


def _scored(context: Context, work: CallStats, stage: str) -> list[Answer]:
    """Answers with the loglikelihood of every option; two models' are combined over the options."""
    with work.clock.stage(stage):
        rows = score(context, context.options, work)
        if context.companion is not None and context.combine is not None:
            others = score(context.companion, context.companion.options, work)
            rows = [_combined_row(context.combine, *pair) for pair in zip(rows, others, strict=True)]
    crossing = [len(row) * _PROBABILITY_BYTES for row in rows]
    return [
        Answer(scored=tuple(row), entropy=_option_entropy(row), payload_bytes=size)
        for row, size in zip(rows, crossing, strict=True)
    ]


def _combined_row(
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ours: Sequence[Scored], theirs: Sequence[Scored]
) -> list[Scored]:
    both = [torch.tensor([s.loglikelihood for s in row]).log_softmax(-1) for row in (ours, theirs)]
    return [Scored(float(value), greedy=False) for value in combine(both[0], both[1])]


def _named(scored: list[Answer], requests: list[Request], work: CallStats) -> list[Answer]:
    """Answers option questions that ask for text with the label of the highest probability."""
    for mark in ("first_token", "answered"):
        work.clock.mark(mark)
    best = [max(range(len(a.scored)), key=lambda i: a.scored[i].loglikelihood) for a in scored]
    return [replace(a, scored=(), text=r.query.labels[i]) for a, r, i in zip(scored, requests, best, strict=True)]


def _decoded(context: Context, requests: list[Request], work: CallStats, stage: str) -> list[Answer]:
    holds, stops = context.lm.max_length, [r.stops for r in requests]
    budgets = [r.new_tokens(n, holds) for r, n in zip(requests, context.prompt_tokens, strict=True)]
    with work.clock.stage(stage):
        written = generate(context, budgets, stops, work, requests[0].exactly)
    work.clock.mark("answered")
    parts = [context.logits] if context.companion is None else [context.logits, context.companion.logits]
    logits = combined(context, parts)
    doubt = entropies(logits)  # only now known to be finite
    per_token = logits.shape[-1] * _PROBABILITY_BYTES
    return [
        Answer(text=w.text, tokens=w.tokens, entropy=e, payload_bytes=len(w.tokens) * per_token)
        for w, e in zip(written, doubt, strict=True)
    ]


def _option_entropy(scored: Sequence[Scored]) -> float:
    return entropies(torch.tensor([[s.loglikelihood for s in scored]]))[0]
