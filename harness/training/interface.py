"""What a run trains, as the rest of training sees it: fusers between frozen models, or an adapter in the receiver.

Guarantees that corpus, order, loss, schedule, checkpoints and validation are one code for both, so that two runs
differ in what is trained alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from harness.channels.interface import Channel

if TYPE_CHECKING:
    from harness.training.dataloader import Lesson
    from harness.training.objective import GraphChannel


class Trained(Protocol):
    """The trained part of a run with the frozen models it works in."""

    @property
    def channel(self) -> GraphChannel:
        """Lays prompts out for the models and reads those that are kept; without links for a receiver alone."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer moves, and nothing else."""

    def train(self, mode: bool = True) -> Any:
        """Turns dropout and noise on or off."""

    def set_step(self, step: int) -> None:
        """Says which step comes next."""

    def evaluated_loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """Summed cross-entropy of the responses in nats, as an evaluation would find it."""

    def as_evaluated(self) -> Channel:
        """The channel as it answers with the weights of now."""

    def figures(self) -> dict[str, float]:
        """What there is to tell at a step beside loss and learning rate."""

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the weights of now.

        Raises:
            RunError: if the disk is full or failing.
        """

    def restore(self, folder: Path) -> None:
        """Goes back to what `save` wrote.

        Raises:
            UserError: if it is damaged or of other shapes.
        """
