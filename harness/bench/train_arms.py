"""The ways of training a fuser that are timed against one another.

Guarantees that every arm does optimizer steps of the training loop itself, on one set of weights: arms share models,
fuser, gradients and optimizer state, and differ only in what they keep and what they compute again.
"""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from harness.bench.arms import Calls
from harness.bench.build import FuserWidths, Models, questions
from harness.bench.train_floor import step_calls
from harness.bench.train_results import TrainCell
from harness.fusion.interface import FuserModule
from harness.fusion.registry import C2C, parse_form
from harness.fusion.shapes import kv_shape
from harness.models import LM
from harness.timing import Clock
from harness.training.batching import Batches
from harness.training.checkpoints import Checkpoints
from harness.training.corpus import Corpus, Row
from harness.training.log import Log
from harness.training.loop import Loop
from harness.training.objective import Objective
from harness.training.optim import Optimisation, optimisation
from harness.training.recipe import Recipe, build
from harness.training.session import Session, fuser_config, recompute_layers
from harness.training.store import Store

# Enough for any bench; the schedule needs to know.
_STEPS = 100_000
_ROOM_GIB = 1e6
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TrainReading:
    """One timed step.

    Attributes:
        total_s: from the rows' numbers to the updated weights.
        cpu_s: of the processor's time meanwhile; less than `total_s` by what other programs took of one thread.
        loss: mean over the response's tokens, in nats.
    """

    total_s: float
    cpu_s: float
    loss: float


@dataclass(frozen=True, eq=False)
class TrainArm:
    """One way of training, ready to step.

    Attributes:
        loop: of the training, never saved and silent.
        calls: what a step cannot do without, by part.
        kept: prompts' caches are kept from step to step.
    """

    loop: Loop
    calls: Calls
    kept: bool

    def settle(self) -> None:
        """Makes what lies there between any two steps but the first: optimizer state and kept caches."""
        for value in self.loop.session.objective.parameters():
            value.grad = torch.zeros_like(value)
        self.loop.optimisation.step()
        for micro in self.loop.batches.of(0):
            self.loop.batches.kept(micro)

    def held_bytes(self) -> int:
        """What lies there between two steps: models, fuser, optimizer state, kept caches; no gradients."""
        session, batches = self.loop.session, self.loop.batches
        models = itertools.chain.from_iterable(lm.model.parameters() for lm in session.models)
        kept = [one for micro in batches.of(0) for one in batches.kept(micro) or ()]
        caches = itertools.chain.from_iterable((*one.parts, one.clean) for one in kept)
        moments = itertools.chain.from_iterable(s.values() for s in self.loop.optimisation.optimizer.state.values())
        return sum(value.nbytes for value in (*models, *session.objective.parameters(), *moments, *caches))

    def step(self) -> TrainReading:
        """Does one optimizer step; prompts are tokenized and laid out anew."""
        loop = self.loop
        clock = Clock(loop.session.device)
        loop.batches.channel.forget()
        clock.mark("start")
        busy = time.process_time()
        told = loop.step(loop.position.step)
        busy = time.process_time() - busy
        clock.mark("end")
        return TrainReading(clock.since_start_s("end"), busy, told["loss"])


def make_train_arms(
    models: Models, names: Sequence[str], cell: TrainCell, widths: FuserWidths, seed: int, form: str = C2C
) -> dict[str, TrainArm]:
    """Builds the named arms, such as ``kept+checkpointing``; ``plain`` keeps and recomputes nothing."""
    rows = _rows(models, cell, random.Random(seed))  # noqa: S311 - no secret
    recipe = _recipe(models, cell, widths, seed, form)
    torch.manual_seed(seed)
    config = fuser_config(recipe, kv_shape(models.receiver.config), kv_shape(models.sharer.config), _STEPS)
    fuser = parse_form(form)[0].load()(config).to(models.receiver.device)
    again = Models(*(replace(lm, model=_recomputing(lm.model)) for lm in (models.receiver, models.sharer)))
    shared = optimisation(fuser, recipe, _STEPS)
    made = {}
    for name in names:
        recompute, kept = "checkpointing" in name, "kept" in name
        how = recipe.model_copy(update={"gradient_checkpointing": recompute})
        made[name] = _arm(again if recompute else models, fuser, how, rows, shared, kept)
    return made


def _arm(
    models: Models, fuser: FuserModule, recipe: Recipe, rows: Sequence[Row], shared: Optimisation, kept: bool
) -> TrainArm:
    objective = Objective(models.receiver, [models.sharer], [fuser], recipe).train()
    speakers = (models.receiver, models.sharer)
    corpus = Corpus(rows, "bench")
    session = Session(recipe, _accelerator(models.receiver), corpus, speakers, objective, objective, _STEPS)
    batches = Batches(recipe, corpus, objective.channel, store=Store(None, _ROOM_GIB) if kept else None)
    nowhere = Path(recipe.output_path)
    log = Log(nowhere, 0, progress=False, tensorboard=False, writes=False)
    loop = Loop(session, batches, shared, Checkpoints(nowhere, {}, 1), log)
    micros = [micro.lessons for micro in batches.of(0)]
    return TrainArm(loop, step_calls(objective.channel, micros, objective, kept), kept)


def _accelerator(lm: LM) -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=lm.device.type == "cpu")


def _rows(models: Models, cell: TrainCell, rng: random.Random) -> list[Row]:
    asked = questions(models, cell.rows * cell.micro_batches, cell.prompt_tokens, (1, cell.response_tokens), rng)
    return [
        {"messages": [{"role": "user", "content": q.question}, {"role": "assistant", "content": q.choices[0]}]}
        for q in asked
    ]


def _recipe(models: Models, cell: TrainCell, widths: FuserWidths, seed: int, form: str) -> Recipe:
    tokens = cell.prompt_tokens + cell.response_tokens
    sizes: dict[str, Any] = {"fuser_form": form}
    if form == C2C:
        sizes = {"hidden_dim": widths.hidden, "intermediate_dim": widths.intermediate, "num_layers": widths.layers}
    batch = {"global_batch": cell.rows * cell.micro_batches, "micro_batch": cell.rows, "steps": _STEPS}
    who = {"receiver": models.receiver.reference.text, "sharers": [models.sharer.reference.text]}
    return build({**who, **sizes, **batch, "seed": seed, "max_length": 4 * tokens, "output_path": "bench"}, "bench")


def _recomputing(model: nn.Module) -> nn.Module:
    twin = _twin(model)
    recompute_layers(twin)
    return twin


def _twin(module: M) -> M:
    """A module of its own over the very same tensors."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(value): value for value in tensors})
