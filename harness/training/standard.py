"""A first layer that starts by reading what it is fed as if it had mean 0 and variance 1.

Keys carry large constant parts, which drown what differs from token to token; a short training then learns nothing.
Guarantees that only where a fuser starts is changed: means and scales are folded into the weights and bias of its
first layer, so its form stays the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.channels.c2c import Link
from harness.training.channel import GraphChannel, Kept
from harness.training.lessons import Lesson


@torch.no_grad()
def standardise(channel: GraphChannel, lessons: Sequence[Lesson]) -> None:
    """Folds what the fusers are fed for some prompts into their first layers, once, before training.

    Args:
        channel: with fusers as they were drawn; each is measured against the receiver's clean cache.
        lessons: prompts to measure on.
    """
    kept = [channel.keep(lesson) for lesson in lessons]
    for number, link in enumerate(channel.links):
        fed = [_fed(link, number, lesson, one) for lesson, one in zip(lessons, kept, strict=True)]
        theirs, ours = (torch.cat(parts, 1) for parts in zip(*fed, strict=True))
        link.fuser.standardise(link.entries, theirs, ours)


def _fed(link: Link, number: int, lesson: Lesson, kept: Kept) -> tuple[Tensor, Tensor]:
    """What the fuser reads of one prompt, `[entries, tokens, heads * head_dim]`, of the sharer and of the receiver.

    Of a prompt with several fused stretches only the first is in the clean cache, so only that is measured.
    """
    start, end = lesson.fused[0]
    kind, layer, place = link.read_index
    ours = kept.clean[kind, layer, 0, :, start:end].transpose(1, 2).flatten(2)
    theirs = kept.parts[number][place][:, : end - start]
    return theirs, ours
