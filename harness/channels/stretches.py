"""Which tokens of which prompts are read and fused together, as indices.

Guarantees that every row's tokens keep their order and that a row without a token at a step takes no part in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.channels.layout import Plan, Span


def steps_of(plans: Sequence[Plan], fusing: bool) -> list[list[Span]]:
    """Spans of positions that are read in one forward call, a span a plan; shorter plans join at a later step."""
    cut = [p.cuts if fusing else (0, len(p.ids[0])) for p in plans]
    spans = [list(itertools.pairwise(c)) for c in cut]
    most = max(map(len, spans))
    padded = [[(0, 0)] * (most - len(s)) + s for s in spans]
    return [list(step) for step in zip(*padded, strict=True)]


def prompt_columns(steps: Sequence[Sequence[Span]], device: torch.device) -> Tensor:
    """True where a column belongs to its row's prompt, pads inside the prompt included, `[rows, columns]`."""
    lengths = [[b - a for a, b in step] for step in steps]
    rows = [
        [i >= max(n) - mine for n, mine in zip(lengths, row, strict=True) for i in range(max(n))]
        for row in zip(*lengths, strict=True)
    ]
    return torch.tensor(rows, device=device)


def within(fused: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    """The fused stretches that lie in a span; none lies across its ends."""
    return tuple((a, b) for a, b in fused if span[0] <= a and b <= span[1])


def token_index(
    spans: Sequence[tuple[Span, ...]], offsets: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of every token in the spans, `[tokens]` each."""
    rows = [i for i, row in enumerate(spans) for a, b in row for _ in range(a, b)]
    columns = [p + offsets[i] for i, row in enumerate(spans) for a, b in row for p in range(a, b)]
    return index_pair(list(zip(rows, columns, strict=True)), device)


def in_message(plans: Sequence[Plan], now: Sequence[tuple[Span, ...]]) -> list[int]:
    """Places of these tokens among the message's tokens."""
    places, start = [], 0
    for plan, spans in zip(plans, now, strict=True):
        order = {p: i for i, p in enumerate(p for a, b in plan.fused for p in range(a, b))}
        places += [start + order[p] for a, b in spans for p in range(a, b)]
        start += plan.n_fused
    return places


def index_pair(pairs: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs of indices as two index tensors, `[pairs]` each."""
    both = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
    return both[:, 0], both[:, 1]
