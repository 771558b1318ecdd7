"""Everything that makes a default pair, apart from the seed, and what a training run tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.demo.world import WorldConfig

Progress = Callable[[str, int, int, float], None]
"""Called with the phase, the step, the most steps it may take and the smoothed loss."""


@dataclass(frozen=True)
class Phase:
    """One stretch of a model's training: to a level, then down with the learning rate.

    Attributes:
        name: the lesson, and the name in the progress display.
        most_steps: after which training gives up if the level is not reached.
        enough: smoothed loss that ends the plateau; every watched one has to reach it.
        cooldown_steps: further steps while the learning rate goes to zero.
        learning_rate: of AdamW.
        least_steps: before which a low loss may be chance, or more practice is wanted.
        demanded: give up with an error where the level is not reached; otherwise go on from there.
    """

    name: str
    most_steps: int
    enough: float
    cooldown_steps: int = 0
    learning_rate: float = 3e-3
    least_steps: int = 0
    demanded: bool = True


@dataclass(frozen=True)
class FuserRecipe:
    """How the fuser is shaped (see ``FuserConfig``) and trained."""

    hidden_dim: int = 64
    intermediate_dim: int = 128
    num_layers: int = 3
    dropout: float = 0.1
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Recipe:
    """The whole pair.

    Attributes:
        world: sizes of the world.
        read: both models' first lesson, to answer from a note.
        know: both models' second lesson, to answer from their own facts.
        fuser: the fuser.
        test_questions: asked about each model's held-out facts when all is done.
    """

    world: WorldConfig = field(default_factory=WorldConfig)
    read: Phase = Phase("read", most_steps=3000, enough=0.3)
    know: Phase = Phase("know", most_steps=4000, enough=0.6, cooldown_steps=1500)
    fuser: FuserRecipe = field(default_factory=FuserRecipe)
    test_questions: int = 400


@dataclass(frozen=True)
class Outcome:
    """What one phase took and where it ended."""

    phase: str
    steps: int
    seconds: float
    loss: float


def silent(*_: object) -> None:
    """Shows no progress."""
