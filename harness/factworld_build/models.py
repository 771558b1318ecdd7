"""The two small models of the embedded pair: their architectures, lessons and training.

Plain transformers models of two families with different depths and head sizes take the paths of real ones. The same
seed gives the same weights on one machine, with one thread a process, as more cost more at this size than they bring.
Models are taught to a level, not for a number of steps: the loss rests long on a plateau, then falls at once.

Both learn to answer from a note, then from their own facts, in rows of one length without padding or masks, and bring
the colour to mind at the question mark, which makes the look-up form in minutes. The sharer is asked for the letter on
every token after the options and every layer from the third on, so its answer is in the caches before its last layer
and token, where it could not cross. The trade-off: it crosses more easily than that of a model never asked to.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import RunError
from harness.factworld_build.rows import WORLD_SEED
from harness.factworld_build.world import (
    COLORS,
    RECEIVER,
    SHARER,
    Fact,
    Question,
    WorldConfig,
    build_facts,
    build_tokenizer,
    draw_question,
    names_of,
    note_chat,
    note_sentence,
    question_chat,
    random_stream,
    render,
    save_tokenizer,
    select_facts,
)

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


def without_progress(*_: object) -> None:
    """Shows no progress."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def receiver_model(tokenizer: Any) -> Any:
    """The untrained receiver: Qwen3's architecture, three layers."""
    return qwen3(tokenizer, 3)


def qwen3(tokenizer: Any, layers: int) -> Any:
    """An untrained model of Qwen3's architecture with so many layers and two KV heads of 32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, head_dim=32, **_shape(tokenizer)))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(2.0)  # sharper attention at the start: look-ups form sooner
    return model


def sharer_model(tokenizer: Any) -> Any:
    """The untrained sharer: Llama's architecture with biases in attention, five layers, two KV heads of 16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, attention_bias=True, **_shape(tokenizer)))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(2.0)  # Llama has no query norm: the same head start by hand
    return model


def load_model(folder: Path) -> Any:
    """Loads one model of a pair for evaluation."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def _shape(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,  # wide: from a narrow start the look-ups do not form at all
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


IGNORED = -100

TAIL_TOKENS = 6  # "pick one letter . <|end|> <|assistant|>"


class Batch(NamedTuple):
    """Token ids and what to predict at each of them.

    Attributes:
        ids: ``[batch, tokens]``.
        targets: ``[batch, tokens]``, the token to predict at each position or ``IGNORED``.
    """

    ids: Tensor
    targets: Tensor


def draw(facts: Sequence[Fact], count: int, rng: random.Random) -> list[Question]:
    """Draws questions on random facts."""
    return [draw_question(rng.choice(facts), rng) for _ in range(count)]


def letter_batch(
    tokenizer: Any, questions: Sequence[Question], hints: Sequence[str] | None = None, tail_tokens: int = 1
) -> Batch:
    """Questions answered by a letter and the end token; the question mark is to bring the colour to mind.

    Args:
        tokenizer: of the world.
        questions: to ask, one a row.
        hints: a colour a row that an earlier note claims, or None for no note.
        tail_tokens: on how many of the prompt's last tokens the letter is to be predicted.
    """
    prompts = render(tokenizer, [question_chat(q, hints[i] if hints else None) for i, q in enumerate(questions)])
    batch = join_replies(tokenizer, prompts, [q.key for q in questions], tail_tokens)
    colors = tokenizer.convert_tokens_to_ids([q.fact.color for q in questions])
    mark = len(prompts[0]) - TAIL_TOKENS - 2 * len(questions[0].choices) - 1
    batch.targets[:, mark] = torch.tensor(colors)
    return batch


def hinted_batch(tokenizer: Any, facts: Sequence[Fact], count: int, rng: random.Random, tail_tokens: int = 1) -> Batch:
    """Questions after a note with a made-up colour, which is the answer to give."""
    made_up = [replace(rng.choice(facts), color=rng.choice(COLORS)) for _ in range(count)]
    questions = [draw_question(fact, rng) for fact in made_up]
    return letter_batch(tokenizer, questions, [fact.color for fact in made_up], tail_tokens)


def note_batch(tokenizer: Any, facts: Sequence[Fact]) -> Batch:
    """Requests for a note, answered by the sentence and the end token."""
    return join_replies(tokenizer, render(tokenizer, [note_chat(f) for f in facts]), [note_sentence(f) for f in facts])


def join_replies(tokenizer: Any, prompts: Sequence[list[int]], texts: Sequence[str], tail_tokens: int = 1) -> Batch:
    """Joins prompts and replies of one length each; the reply's first token is asked for on the whole tail."""
    prompt = torch.tensor(prompts)  # [batch, prompt]
    reply = torch.tensor(tokenizer(list(texts), add_special_tokens=False)["input_ids"])  # [batch, reply]
    end = torch.full_like(reply[:, :1], tokenizer.eos_token_id)
    silent = torch.full_like(prompt[:, tail_tokens:], IGNORED)
    first = reply[:, :1].expand(-1, tail_tokens)
    targets = torch.cat([silent, first, reply[:, 1:], end], dim=1)
    return Batch(torch.cat([prompt, reply], dim=1), targets)


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


WARMUP_STEPS = 50


def train_member(name: str, seed: int, folder: Path, recipe: Recipe, progress: Progress) -> list[Outcome]:
    """Trains the receiver or the sharer and saves it with its tokenizer.

    Args:
        name: ``receiver`` or ``sharer``.
        seed: of weights and batches.
        folder: to save to.
        recipe: the phases and the world.
        progress: see ``Progress``.

    Returns:
        The outcome of each phase.

    Raises:
        RunError: if the model does not learn.
    """
    facts = build_facts(WORLD_SEED, recipe.world)
    tokenizer, course, rng = build_tokenizer(names_of(facts)), COURSES[name], random_stream(name, seed)
    with one_thread():
        torch.manual_seed(seed)
        model = course.model(tokenizer).train()
        steps = course.steps(model, tokenizer, select_facts(facts, name), facts)
        outcomes = [train_model(model, steps[phase.name], phase, rng, progress) for phase in (recipe.read, recipe.know)]
    model.eval().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return outcomes


def train_model(model: Any, step: Step, phase: Phase, rng: random.Random, progress: Progress) -> Outcome:
    """Trains until the watched loss is low enough, then cools down.

    Raises:
        RunError: if the level is not reached within the phase's steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    start, smooth, done, cool = time.perf_counter(), [math.inf], 0, 0
    while cool <= phase.cooldown_steps:
        rate = min(1.0, (done + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * cool / (phase.cooldown_steps + 1))) / 2
        now = _update(model, optimizer, step, rng, phase.learning_rate * rate)
        smooth = now if not done else [0.95 * old + 0.05 * new for old, new in zip(smooth, now, strict=True)]
        done += 1
        given_up = not cool and done >= phase.most_steps and max(smooth) >= phase.enough
        cool += cool > 0 or (max(smooth) < phase.enough and done >= phase.least_steps) or given_up
        progress(phase.name, done, phase.most_steps + phase.cooldown_steps, max(smooth))
        if given_up and phase.demanded:
            raise RunError(
                f"Phase {phase.name!r} is still at loss {max(smooth):.2f} after {done} steps; try another seed."
            )
    return Outcome(phase.name, done, time.perf_counter() - start, max(smooth))


def _update(model: Any, optimizer: Any, step: Step, rng: random.Random, learning_rate: float) -> list[float]:
    """Takes one step and returns the watched losses."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss, watched = step(rng)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    found: list[float] = watched.detach().reshape(-1).tolist()
    return found
