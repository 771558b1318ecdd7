"""The sharer and its lessons: to know at a name where it lives, then to write that down when asked.

Guarantees that its caches tell the place alone: after every layer the name's state is to predict its place, and names
of one place leave the same keys and values, well apart from those of other places. To questions with options it replies
with any letter, since of what is at a place it knows nothing. A third lesson, which the carried pair does without,
teaches it to answer questions about places itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from harness.factworld_build.models import Step, qwen3
from harness.factworld_build.world import LABELS, USER
from harness.models.lm import cache_argument
from harness.relay_build.lessons import Codec, plain_batch
from harness.relay_build.questions import CROWD, FORMS, ONE, SLOTS, Question, draw_question, letter_options
from harness.relay_build.receiver import reply_losses
from harness.relay_build.recipe import Rows
from harness.relay_build.world import ATTRIBUTES, PLACE, World

LAYERS = 4
_SPREAD_WEIGHT, _GUESS_WEIGHT, _KEPT_WEIGHT = 0.25, 0.5, 0.1
_ANSWER_ROWS, _KEPT_ROWS = 64, 32
_NEAREST_SCALE = 8.0
_ABSENT = 1e4


def sharer_model(tokenizer: Any) -> Any:
    """The untrained sharer: Qwen3's architecture, four layers."""
    return qwen3(tokenizer, LAYERS)


@dataclass(frozen=True)
class _Sharer:
    """A sharer in training.

    Attributes:
        model: the sharer.
        world: of the lessons.
        codec: of the sharer.
        rng: draws everything.
    """

    model: Any
    world: World
    codec: Codec
    rng: random.Random

    def where_loss(self, form: str, count: int) -> Tensor:
        """Cross-entropy of the place at each name after every layer, and how the names' caches are spread."""
        columns = list(SLOTS[form])
        names = [self.rng.sample(list(self.world.homes), len(columns)) for _ in range(count)]
        states, cache = self._read([_opening(form, row) for row in names])
        homes = [self.world.homes[name] for row in names for name in row]
        wanted = torch.tensor(self.codec.of(homes))
        group = torch.tensor([self.world.places.index(place) for place in homes])
        total = torch.stack([self._place_loss(layer[:, columns].flatten(0, 1), wanted) for layer in states]).sum()
        for layer in cache.layers:
            for entry in (layer.keys, layer.values):  # [rows, heads, tokens, head_dim]
                at_names = entry[:, :, columns].transpose(1, 2).flatten(0, 1).flatten(1)
                total = total + _SPREAD_WEIGHT * spread_loss(at_names, group, len(self.world.places))
        return total

    def note_loss(self, count: int) -> Tensor:
        """Cross-entropy of the notes, a mean over their tokens, summed over both forms."""
        total = torch.zeros(())
        for form in FORMS:
            asked = self.questions(form, count, [PLACE, *ATTRIBUTES])
            batch = plain_batch(self.codec, [q.note_prompt() for q in asked], [q.note() for q in asked])
            total = total + reply_losses(self.model, batch)[0].mean()
        return total

    def letter_loss(self, count: int) -> Tensor:
        """Cross-entropy of the replies to questions with options, any letter being as good as another."""
        total = torch.zeros(())
        for form in FORMS:
            asked = self.questions(form, count, ATTRIBUTES)
            letters = [self.rng.choice(LABELS) for _ in asked]
            batch = plain_batch(self.codec, [q.prompt() for q in asked], letters)
            total = total + reply_losses(self.model, batch)[0].sum()
        return total

    def answer_loss(self, count: int) -> Tensor:
        """Mean cross-entropy of the right letters for questions that ask for one place."""
        asked = self.questions(ONE, count, [PLACE])
        batch = plain_batch(self.codec, [q.prompt() for q in asked], [LABELS[q.key] for q in asked])
        return reply_losses(self.model, batch)[0].mean()

    def questions(self, form: str, count: int, attributes: Sequence[str]) -> list[Question]:
        """Questions about any facts and names, by the attributes that they may be about."""
        facts = [(self.rng.choice(self.world.places), self.rng.choice(attributes)) for _ in range(count)]
        names = self.world.names_by_place()
        return [draw_question(self.world, form, fact, names, self.rng) for fact in facts]

    def _read(self, texts: Sequence[str]) -> tuple[list[Tensor], DynamicCache]:
        """The states `[rows, tokens, hidden]` after each layer, ready for the head, and the cache."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([self.codec.encode(text) for text in texts])
        architecture: type = type(self.model)
        more = {cache_argument(architecture): cache}
        out = self.model.model(input_ids=ids, output_hidden_states=True, use_cache=True, **more)
        *inner, last = out.hidden_states[1:]
        return [*map(self.model.model.norm, inner), last], cache

    def _place_loss(self, states: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(self.model.lm_head(states), wanted)


def sharer_steps(model: Any, world: World, codec: Codec, rows: Rows) -> Mapping[str, Step]:
    """The lessons' steps by the name of their phase.

    After ``answer`` the sharer can answer the fuser's own lesson in the form of one place, so that the fuser may pass
    that answer on in place of the place, see docs/training.md.

    Args:
        model: the sharer.
        world: of the lessons.
        codec: of the sharer.
        rows: how many a step has.
    """

    def where(rng: random.Random) -> tuple[Tensor, Tensor]:
        loss = _Sharer(model, world, codec, rng).where_loss(ONE, rows.names)
        return loss, loss

    def tell(rng: random.Random) -> tuple[Tensor, Tensor]:
        sharer = _Sharer(model, world, codec, rng)
        notes, letters = sharer.note_loss(rows.notes), sharer.letter_loss(rows.letters)
        where_loss = 0.5 * sharer.where_loss(ONE, rows.crowds) + sharer.where_loss(CROWD, rows.crowds)
        return notes + _GUESS_WEIGHT * letters + where_loss, notes

    def answer(rng: random.Random) -> tuple[Tensor, Tensor]:
        sharer = _Sharer(model, world, codec, rng)
        letters = sharer.answer_loss(_ANSWER_ROWS)
        return letters + _KEPT_WEIGHT * sharer.where_loss(ONE, _KEPT_ROWS), letters

    return {"where": where, "tell": tell, "answer": answer}


def spread_loss(entries: Tensor, group: Tensor, groups: int) -> Tensor:
    """How far the entries of a group lie apart, and whether each is nearest to its own group's centre.

    The first alone is met by one long direction, in which many groups are hard to tell apart.

    Args:
        entries: `[names, width]`.
        group: of each `[names]`.
        groups: how many there are.
    """
    one_hot = F.one_hot(group, groups).float()
    scaled = (entries - entries.mean(0)) / entries.var(0).mean().sqrt().clamp_min(1e-3)
    counts = one_hot.sum(0)
    centres = one_hot.T @ scaled / counts.clamp_min(1)[:, None]
    closeness = -(torch.cdist(scaled, centres) ** 2) / _NEAREST_SCALE - (counts == 0) * _ABSENT
    return ((scaled - centres[group]) ** 2).mean() + F.cross_entropy(closeness, group)


def _opening(form: str, names: Sequence[str]) -> str:
    """A prompt up to its last name."""
    return f"{USER} near {names[0]}" if form == ONE else f"{USER} {letter_options(names)}"
