"""The loss of a batch as one module, so that it can be wrapped for several processes.

Guarantees that only the fusers are parameters: the models are held beside them, frozen and in inference mode, and
are neither broadcast nor saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.channels.c2c import Link
from harness.fusion.interface import FuserModule
from harness.models import DTYPES, LM
from harness.training.channel import KINDS, GraphChannel, Kept, TrainedLink
from harness.training.checkpoints import load_fusers, save_fusers
from harness.training.fuser import Computing
from harness.training.lessons import Lesson
from harness.training.recipe import Recipe
from harness.training.trained import cross_entropy, nothing


class Objective(nn.Module):
    """Sum of the cross-entropies of the responses' tokens, in nats."""

    def __init__(self, receiver: LM, sharers: Sequence[LM], fusers: Sequence[FuserModule], recipe: Recipe) -> None:
        super().__init__()
        self.fusers = nn.ModuleList(fusers)
        kinds, how = KINDS[recipe.fuse_kinds], computing(recipe, receiver)
        links = tuple(
            TrainedLink(lm, fuser, kinds=kinds, computing=how) for lm, fuser in zip(sharers, fusers, strict=True)
        )
        self.channel = GraphChannel(receiver, links, recipe.fusion_mode, recipe.alignment)
        for fuser in fusers:
            fuser.keep_kinds(kinds)

    def forward(self, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
        """Returns the summed loss; of no lessons at all a zero that every process can still differentiate."""
        return summed_loss(self.channel, lessons, kept) if lessons else nothing(self.parameters())

    @property
    def trained(self) -> list[FuserModule]:
        """The fusers in the order of the sharers."""
        return [link.fuser for link in self.channel.links]

    def set_step(self, step: int) -> None:
        """Anneals the gates."""
        for fuser in self.trained:
            fuser.set_step(step)

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Returns the summed loss with hard gates."""
        return summed_loss(self.as_evaluated(), lessons)

    def as_evaluated(self) -> GraphChannel:
        """The channel as it answers with the weights of now: hard gates, nothing else changed."""
        self.eval()
        links = tuple(Link(link.sharer, link.fuser) for link in self.channel.links)
        return GraphChannel(self.channel.answers, links, self.channel.mode, self.channel.alignment)

    def figures(self) -> dict[str, float]:
        """Returns what the fusers report at a step, the mean over several of them."""
        found = [fuser.figures() for fuser in self.trained]
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the fusers; see `save_fusers`."""
        save_fusers(self.trained, folder, provenance)

    def restore(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        for fuser, found in zip(self.trained, load_fusers(folder, len(self.trained)), strict=True):
            fuser.load_state_dict(found.state_dict())


def summed_loss(channel: GraphChannel, lessons: Sequence[Lesson], kept: Sequence[Kept] | None = None) -> Tensor:
    """Cross-entropy of the responses' tokens under a channel, summed, in nats."""
    return torch.stack([cross_entropy(*found) for found in channel.predictions(lessons, kept)]).sum()


def computing(recipe: Recipe, receiver: LM) -> Computing:
    """How the fusers' deltas are computed: products in `fuser_dtype`, which is the receiver's by default."""
    dtype = receiver.dtype if recipe.fuser_dtype == "auto" else DTYPES[recipe.fuser_dtype]
    return Computing(recipe.gradient_checkpointing, None if dtype == torch.float32 else dtype)
