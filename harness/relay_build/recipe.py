"""Everything that makes a relay pair, apart from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.factworld_build.models import FuserRecipe, Phase
from harness.factworld_build.world import RECEIVER
from harness.relay_build.rows import WORLD_SEED
from harness.relay_build.world import WorldConfig

# To the end of this lesson the sharer answers by itself what the fuser is trained on.
ANSWER = Phase("answer", most_steps=600, enough=0.1, least_steps=100, cooldown_steps=100, learning_rate=1e-3)


@dataclass(frozen=True)
class Rows:
    """Rows a step.

    Attributes:
        reading: of each form in the receiver's reading lesson, and half as many forced ones.
        knowing: the same in its second lesson.
        names: in the sharer's first lesson.
        crowds: of each form in its second one, with names alone.
        notes: of each form.
        letters: of each form.
    """

    reading: int = 16
    knowing: int = 24
    names: int = 256
    crowds: int = 48
    notes: int = 12
    letters: int = 8


@dataclass(frozen=True)
class Recipe:
    """The whole pair.

    Attributes:
        world: sizes of the world.
        world_seed: of the world.
        rows: a step.
        receiver: the receiver's phases: to read, and to know what is at a place.
        sharer: the sharer's phases: to know where a name lives, and to tell it.
        fuser: the fuser; its batch is the rows of each form.
        test_rounds: how often each taught fact is asked about when all is done.
        answering_sharer: teach the sharer, last, to answer the fuser's lesson itself, see `sharer_steps`.
    """

    world: WorldConfig = field(default_factory=WorldConfig)
    world_seed: int = WORLD_SEED
    rows: Rows = field(default_factory=Rows)
    receiver: tuple[Phase, ...] = (
        Phase("read", most_steps=1500, enough=0.25, least_steps=100, demanded=False),
        Phase("know", most_steps=1500, enough=0.25, least_steps=500, cooldown_steps=300, demanded=False),
    )
    sharer: tuple[Phase, ...] = (
        Phase("where", most_steps=600, enough=0.5, least_steps=100, demanded=False),
        Phase("tell", most_steps=800, enough=0.15, least_steps=100, cooldown_steps=200, demanded=False),
    )
    fuser: FuserRecipe = field(
        default_factory=lambda: FuserRecipe(hidden_dim=64, intermediate_dim=128, num_layers=3, dropout=0.0, steps=200)
    )
    test_rounds: int = 1
    answering_sharer: bool = False

    def phases(self, name: str) -> tuple[Phase, ...]:
        """The lessons of the receiver or of the sharer, in their order."""
        if name == RECEIVER:
            return self.receiver
        return (*self.sharer, ANSWER) if self.answering_sharer else self.sharer
