"""Trains one small model from nothing and saves it as an ordinary model folder.

Guarantees the same weights for the same seed on the same machine. The trade-off: models are taught to a
level, not for a fixed number of steps, since the loss rests long on a plateau and then falls at once.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import torch

from harness.demo.lessons import COURSES, Step
from harness.demo.recipe import Outcome, Phase, Progress, Recipe
from harness.demo.rows import WORLD_SEED
from harness.demo.threads import one_thread
from harness.demo.tokenizer import build_tokenizer, save_tokenizer
from harness.demo.world import build_facts, names_of, seeded, select
from harness.errors import RunError

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
    tokenizer, course, rng = build_tokenizer(names_of(facts)), COURSES[name], seeded(name, seed)
    with one_thread():
        torch.manual_seed(seed)
        model = course.model(tokenizer).train()
        steps = course.steps(model, tokenizer, select(facts, name), facts)
        outcomes = [teach(model, steps[phase.name], phase, rng, progress) for phase in (recipe.read, recipe.know)]
    model.eval().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return outcomes


def teach(model: Any, step: Step, phase: Phase, rng: random.Random, progress: Progress) -> Outcome:
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
