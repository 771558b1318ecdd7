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
from harness.fusion.fuser import Fuser
from harness.models import LM
from harness.training.channel import KINDS, GraphChannel, Kept, TrainedLink
from harness.training.checkpoints import load_fusers, save_fusers
from harness.training.fuser import TrainedFuser
from harness.training.lessons import Lesson
from harness.training.recipe import Recipe
from harness.training.trained import cross_entropy, nothing

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
        return summed_loss(self.channel, lessons, kept) if lessons else nothing(self.parameters())

    @property
    def trained(self) -> list[Fuser]:
        """The fusers in the order of the sharers."""
        return [link.fuser for link in self.channel.links]

    def set_step(self, step: int) -> None:
        """Anneals the gates."""
        for fuser in self.trained:
            fuser.set_temperature_step(step)

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Returns the summed loss with hard gates."""
        return summed_loss(self.as_evaluated(), lessons)

    def as_evaluated(self) -> GraphChannel:
        """The channel as it answers with the weights of now: hard gates, nothing else changed."""
        self.eval()
        links = tuple(Link(link.sharer, link.fuser) for link in self.channel.links)
        return GraphChannel(self.channel.answers, links, self.channel.mode, self.channel.alignment)

    def figures(self) -> dict[str, float]:
        """Returns the temperature and the state of the gates."""
        logits = torch.cat([fuser.gate_logit.detach() for fuser in self.trained])
        return {
            "temperature": float(self.trained[0].gate_temperature[0]),
            "gates_open": float((logits > 0).float().mean()),
            "gate_logit_mean": float(logits.mean()),
        }

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


@torch.no_grad()
def shut_other_kinds(fuser: TrainedFuser, kinds: Sequence[int]) -> None:
    """Closes the gates of what is not fused; nothing ever opens them, because they take no part in the loss."""
    for kind in {0, 1} - set(kinds):
        fuser.gates()[kind].fill_(SHUT)
    fuser.refresh()
