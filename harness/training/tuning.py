"""The loss of a receiver that is fine-tuned alone: what a fuser's gain has to be measured against.

Guarantees the prompts, responses and loss of a fuser's training with nobody's cache fused. Rows are read in one
forward pass and padded behind, where causal attention sees no pad; the vocabulary is projected where a response's
token is predicted and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.channels.single import Single
from harness.models import LM
from harness.training.adapter import FOLDER, Adapter
from harness.training.channel import GraphChannel
from harness.training.lessons import Lesson
from harness.training.trained import cross_entropy, nothing


class TunedReceiver(nn.Module):
    """Sum of the cross-entropies of the responses' tokens, in nats; the adapter's weights are its parameters."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter, self.channel = adapter, GraphChannel(adapter.lm, ())
        self.weights = nn.ParameterList(adapter.parameters)

    def forward(self, lessons: Sequence[Lesson], kept: None = None) -> Tensor:
        """Returns the summed loss; of no lessons at all a zero that every process can still differentiate."""
        return response_loss(self.adapter.lm, lessons) if lessons else nothing(self.parameters())

    def train(self, mode: bool = True) -> TunedReceiver:
        """Turns the adapter's dropout on or off."""
        self.adapter.train(mode)
        return super().train(mode)

    def set_step(self, step: int) -> None:
        """Nothing is annealed."""

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Returns the summed loss without dropout."""
        self.eval()
        return response_loss(self.adapter.lm, lessons)

    def as_evaluated(self) -> Single:
        """The receiver alone, with the adapter inside."""
        self.eval()
        return Single(self.adapter.lm)

    def figures(self) -> dict[str, float]:
        """Returns nothing: there is no gate."""
        return {}

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the adapter as ``adapter``."""
        self.adapter.save(folder / FOLDER, provenance)

    def restore(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        self.adapter.restore(folder / FOLDER)


def response_loss(lm: LM, lessons: Sequence[Lesson]) -> Tensor:
    """Cross-entropy of the responses' tokens under a model that reads prompts and responses alone, summed, in nats."""
    if lm.together.factors_change is not None and len(lessons) > 1:
        return torch.stack([response_loss(lm, [one]) for one in lessons]).sum()
    rows = [one.ids[0] for one in lessons]
    width = max(map(len, rows))
    ids = torch.tensor([list(row) + [lm.pad_id] * (width - len(row)) for row in rows], device=lm.device)
    # The column before a token predicts it.
    wanted = [[one.prompt_length - 1 <= place < len(one.ids[0]) for place in range(width)] for one in lessons]
    targets = torch.tensor([token for one in lessons for token in one.response], device=lm.device)
    return cross_entropy(_projected(lm, ids, torch.tensor(wanted, device=lm.device)), targets)


def _projected(lm: LM, ids: Tensor, wanted: Tensor) -> Tensor:
    """Logits of the wanted columns, `[wanted, vocabulary]`, row after row."""

    def pick(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][wanted],)

    hook = lm.model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = lm.model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits
