"""The loss of a batch as one module, so that it can be wrapped for several processes.

Guarantees that only the fusers are parameters: the models are held beside them, frozen and in inference mode, and
are neither broadcast nor saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.channels.c2c import Link
from harness.models import LM
from harness.training.channel import KINDS, GraphChannel, Kept, Predicted, TrainedLink
from harness.training.fuser import TrainedFuser
from harness.training.lessons import Lesson
from harness.training.recipe import Recipe

SHUT = -1.0


class Objective(nn.Module):
    """Sum of the cross-entropies of the responses' tokens, in nats."""

    def __init__(self, receiver: LM, sharers: Sequence[LM], fusers: Sequence[TrainedFuser], recipe: Recipe) -> None:
        super().__init__()
        self.fusers = nn.ModuleList(fusers)
        kinds = KINDS[recipe.fuse_kinds]
        links = tuple(TrainedLink(lm, fuser, kinds=kinds) for lm, fuser in zip(sharers, fusers, strict=True))
        self.channel = GraphChannel(receiver, links, recipe.fusion_mode, recipe.alignment)
        for fuser in fusers:
            shut_other_kinds(fuser, kinds)

    def forward(self, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
        """Returns the summed loss; of no lessons at all a zero that every process can still differentiate."""
        if not lessons:
            return torch.stack([value.sum() for value in self.parameters()]).sum() * 0.0
        return summed_loss(self.channel, lessons, kept)

    def set_step(self, step: int) -> None:
        """Anneals the gates."""
        for link in self.channel.links:
            link.fuser.set_temperature_step(step)

    def as_evaluated(self) -> GraphChannel:
        """The channel as it answers with the weights of now: hard gates, nothing else changed."""
        self.eval()
        links = tuple(Link(link.sharer, link.fuser) for link in self.channel.links)
        return GraphChannel(self.channel.answers, links, self.channel.mode, self.channel.alignment)


def summed_loss(channel: GraphChannel, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
    """Cross-entropy of the responses' tokens under a channel, summed, in nats."""
    return torch.stack([_cost(found) for found in channel.predictions(lessons, kept)]).sum()


def _cost(found: Predicted) -> Tensor:
    logits = found.logits.to(torch.promote_types(found.logits.dtype, torch.float32))
    return F.cross_entropy(logits, found.targets, reduction="sum")


@torch.no_grad()
def shut_other_kinds(fuser: TrainedFuser, kinds: Sequence[int]) -> None:
    """Closes the gates of what is not fused; nothing ever opens them, because they take no part in the loss."""
    for kind in {0, 1} - set(kinds):
        fuser.gates()[kind].fill_(SHUT)
    fuser.refresh()
