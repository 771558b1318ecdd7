"""What the two models are taught: first to answer from a note, then from their own half of the facts.

Guarantees that the sharer has its answer in the caches before its last layer and its last token, where it
could not cross to a receiver: it is asked for the letter on every token after the options and after every
layer from the third on. Both bring the colour to mind at the question mark, which makes the look-up form
in minutes. The trade-off: such answers cross more easily than those of a model that was never asked to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.demo.batches import IGNORED, TAIL_TOKENS, Batch, draw, hinted_batch, letter_batch, note_batch
from harness.demo.models import receiver_model, sharer_model
from harness.demo.world import RECEIVER, SHARER, Fact

SHARER_EARLY_LAYER = 3
QUESTIONS, NOTES = 64, 16  # rows a step; half as many questions while only notes are read
Step = Callable[[random.Random], tuple[Tensor, Tensor]]
"""Draws a batch and returns the loss to minimise and the loss to watch."""


@dataclass(frozen=True)
class Course:
    """One model's training.

    Attributes:
        model: makes the untrained model for a tokenizer.
        steps: makes the steps of each phase from model, tokenizer, the model's own facts and all facts.
    """

    model: Callable[[Any], Any]
    steps: Callable[[Any, Any, Sequence[Fact], Sequence[Fact]], Mapping[str, Step]]


def answer_loss(model: Any, batch: Batch, first_layer: int | None = None) -> Tensor:
    """Cross-entropy on a batch's targets, read from the last layer or from all layers from one on.

    Args:
        model: a causal language model with a final norm and a head.
        batch: ids and targets.
        first_layer: number of layers after which the answer is first asked for; None asks only at the end.
    """
    out = model.model(batch.ids, use_cache=False, output_hidden_states=first_layer is not None)
    wanted = batch.targets != IGNORED
    states = [out.last_hidden_state]
    if first_layer is not None:
        states += [model.model.norm(state) for state in out.hidden_states[first_layer:-1]]
    losses = [F.cross_entropy(model.lm_head(state[wanted]), batch.targets[wanted]) for state in states]
    return torch.stack(losses).mean()


def receiver_steps(model: Any, tokenizer: Any, own: Sequence[Fact], everything: Sequence[Fact]) -> Mapping[str, Step]:
    """The receiver's lessons: to use a note, then also to answer from its own facts."""

    def read(rng: random.Random) -> tuple[Tensor, Tensor]:
        loss = answer_loss(model, hinted_batch(tokenizer, everything, QUESTIONS // 2, rng))
        return loss, loss

    def know(rng: random.Random) -> tuple[Tensor, Tensor]:
        loss = answer_loss(model, letter_batch(tokenizer, draw(own, QUESTIONS, rng)))
        return loss + 0.5 * answer_loss(model, hinted_batch(tokenizer, everything, NOTES, rng)), loss

    return {"read": read, "know": know}


def sharer_steps(model: Any, tokenizer: Any, own: Sequence[Fact], everything: Sequence[Fact]) -> Mapping[str, Step]:
    """The sharer's lessons: to use a note, then to answer early from its own facts and to write notes."""

    def early_loss(batch: Batch) -> Tensor:
        return answer_loss(model, batch, SHARER_EARLY_LAYER)

    def read(rng: random.Random) -> tuple[Tensor, Tensor]:
        loss = early_loss(hinted_batch(tokenizer, everything, QUESTIONS // 2, rng, TAIL_TOKENS))
        return loss, loss

    def know(rng: random.Random) -> tuple[Tensor, Tensor]:
        loss = early_loss(letter_batch(tokenizer, draw(own, QUESTIONS, rng), tail_tokens=TAIL_TOKENS))
        return loss + 0.25 * answer_loss(model, note_batch(tokenizer, rng.choices(own, k=NOTES))), loss

    return {"read": read, "know": know}


COURSES = {RECEIVER: Course(receiver_model, receiver_steps), SHARER: Course(sharer_model, sharer_steps)}
