"""The receiver and its lessons: first to read, then to know what is at a place.

In the reading lesson a slot holds the very thing that is asked for; in the second one it holds the place. Every step
has rows of both forms of question, see `harness.relay_build.lessons` for their kinds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.factworld_build.models import Step, qwen3
from harness.relay_build.lessons import IGNORED, Batch, Codec, Teacher
from harness.relay_build.questions import FORMS
from harness.relay_build.recipe import Rows
from harness.relay_build.world import World

LAYERS = 3
_TWIN, _NOTED, _UNAIDED, _READING = 0.75, 0.6, 0.2, 0.15
_NAMES_APART = 0.1
_VALUES_WEIGHT = 0.5


def receiver_model(tokenizer: Any, world: World) -> Any:
    """The untrained receiver, for which names begin nearly alike, as rare words do in a trained model."""
    model = qwen3(tokenizer, LAYERS)
    names = tokenizer.convert_tokens_to_ids(list(world.homes))
    with torch.no_grad():
        table = model.model.embed_tokens.weight
        table[names] = table[names[0]] + _NAMES_APART * table[names]
    return model


def reply_losses(model: Any, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Cross-entropy at each place of the replies, averaged over the rows.

    Returns:
        `[reply + 1]`, 0 where nothing is to be learned, and the states after every layer, the embeddings first.
    """
    out = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    logits = model.lm_head(out.last_hidden_state[:, -batch.targets.shape[1] :])
    losses = F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none", ignore_index=IGNORED)
    return losses.mean(0), out.hidden_states


def receiver_steps(model: Any, world: World, codec: Codec, rows: Rows) -> Mapping[str, Step]:
    """The two lessons' steps by the name of their phase.

    Args:
        model: the receiver.
        world: of the lessons.
        codec: of the receiver.
        rows: how many a step has of each form.
    """
    values_loss = _values_loss(model, world, codec)

    def lesson(rng: random.Random, batches_of: Callable[[Teacher], Iterator[Batch]]) -> tuple[Tensor, Tensor]:
        total, letters = torch.zeros(()), []
        for form in FORMS:
            teacher = Teacher(world, codec, form, rng)
            for number, batch in enumerate(batches_of(teacher)):
                losses, states = reply_losses(model, batch)
                total = total + losses.sum() + _VALUES_WEIGHT * values_loss(states[1], batch.ids)
                total = total + _hints_loss(model, batch, states[1]) + _look_loss(model, batch, states[1])
                if number < 2:  # the places in the slots, and forced
                    letters.append(losses[-2].detach())
        return total, torch.stack(letters)

    def read(rng: random.Random) -> tuple[Tensor, Tensor]:
        return lesson(rng, lambda teacher: _first_kinds(teacher, rows.reading, True))

    def know(rng: random.Random) -> tuple[Tensor, Tensor]:
        reading = rng.random() < _READING
        return lesson(rng, lambda teacher: _all_kinds(teacher, rows.knowing, reading))

    return {"read": read, "know": know}


def _first_kinds(teacher: Teacher, count: int, reading: bool) -> Iterator[Batch]:
    written = teacher.twin if teacher.rng.random() < _TWIN else teacher.written
    yield written(teacher.questions(count), reading)
    yield teacher.forced(teacher.questions(count // 2), reading)


def _all_kinds(teacher: Teacher, count: int, reading: bool) -> Iterator[Batch]:
    yield from _first_kinds(teacher, count, reading)
    if teacher.rng.random() < _NOTED:
        yield teacher.noted(teacher.questions(count // 2), reading)
    if not reading and teacher.rng.random() < _UNAIDED:
        yield teacher.unaided(teacher.questions(count // 2))


def _hints_loss(model: Any, batch: Batch, states: Tensor) -> Tensor:
    """Cross-entropy of a batch's hints, read from states `[rows, tokens, hidden]`."""
    if batch.hints is None:
        return states.new_zeros(())
    logits = model.lm_head(model.model.norm(states[:, list(batch.hints.columns)]))
    return F.cross_entropy(logits.flatten(0, 1), batch.hints.words.flatten())


def _look_loss(model: Any, batch: Batch, states: Tensor) -> Tensor:
    """Cross-entropy of where the second layer's first head looks from a batch's token, states `[rows, tokens, hidden]`.

    A look-up rests on two layers that mean nothing without each other, so it forms late; told where to look, it forms
    in a few hundred steps, and it looks at the reply and not at the slots.
    """
    if batch.look is None:
        return states.new_zeros(())
    layer, column, tokens = model.model.layers[1], batch.look.column, states.shape[1]
    attention, inputs = layer.self_attn, layer.input_layernorm(states)
    positions = torch.arange(tokens)[None] if batch.positions is None else batch.positions
    cos, sin = model.model.rotary_emb(inputs, positions)  # [1, tokens, head_dim]
    width = attention.head_dim
    keys = attention.k_norm(attention.k_proj(inputs)[..., :width])
    query = attention.q_norm(attention.q_proj(inputs[:, column])[..., :width])
    keys, query = _rotated(keys, cos, sin), _rotated(query, cos[:, column], sin[:, column])
    scores = torch.einsum("rd,rtd->rt", query, keys) * attention.scaling
    seen = torch.arange(tokens) <= column if batch.mask is None else batch.mask[0, 0, column]
    return F.cross_entropy(scores.masked_fill(~seen, -math.inf), batch.look.wanted)


def _rotated(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of vectors `[..., head_dim]`."""
    first, second = vectors.chunk(2, -1)
    return vectors * cos + torch.cat([-second, first], -1) * sin


def _values_loss(model: Any, world: World, codec: Codec) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that wants a place's taught values, each as likely, of the states at the place's word."""
    table = _value_table(world, codec)
    known = table.sum(1) > 0

    def loss(states: Tensor, ids: Tensor) -> Tensor:
        at = known[ids]
        if not bool(at.any()):
            return states.new_zeros(())
        return F.cross_entropy(model.lm_head(model.model.norm(states[at])), table[ids[at]])

    return loss


def _value_table(world: World, codec: Codec) -> Tensor:
    """Probabilities `[words, words]` of a place's taught values."""
    table = torch.zeros(len(codec.words), len(codec.words))
    for place, attribute in world.taught:
        table[codec.ids[place], codec.ids[world.values[place, attribute]]] = 1.0
    return table / table.sum(1, keepdim=True).clamp_min(1)
