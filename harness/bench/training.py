"""The ways of training a fuser that are timed against one another, beside their roofline.

Arms take turns in one process, so a drift of the machine hits all alike, and the machine is measured in every round.
Every arm does optimizer steps of the training loop itself; arms share models, fuser, gradients and optimizer state, and
differ only in what they keep and what they compute again. Optimizer state and kept caches exist before the first round.

The floor of a step is computed on the lessons' own layout. The frozen models are charged their prompt passes without a
backward pass and the response's pass with one, the fuser its forward pass and the gradients of its weights and of what
earlier fusion has changed, the optimizer its bytes. What a setting computes twice (recomputation) is not charged.
"""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from harness.bench.candidates import Calls
from harness.bench.measure import Repeats, rotated_order
from harness.bench.model_shapes import FuserWidths
from harness.bench.results import PLAIN, Series, TrainCell, TrainResult
from harness.bench.roofline import (
    Cost,
    Meter,
    Speeds,
    best_speeds,
    floor_s,
    fused_numbers,
    fusion_backward_flops,
    fusion_cost,
    fusion_weights,
    model_cost,
)
from harness.bench.synthetic_pair import Models, questions
from harness.channels.c2c import Link
from harness.channels.prompt_layout import Span
from harness.fusers.interface import FuserModule
from harness.fusers.registry import C2C, parse_form
from harness.inference.memory import with_peak
from harness.inference.types import Clock
from harness.models.lm import LM, kv_shape
from harness.training.checkpoints import Checkpoints
from harness.training.dataloader import Batches, Lesson
from harness.training.dataset import Corpus, Row
from harness.training.loop import Loop, Optimisation, optimisation
from harness.training.metrics_log import Log
from harness.training.objective import GraphChannel, Objective
from harness.training.prompt_cache import Store
from harness.training.recipe import Recipe, build
from harness.training.setup import Session, fuser_config, recompute_layers

MASTER_BYTES = 4  # of one weight, its gradient, or one moment

# The norm reads every gradient; the update reads it again, and reads and writes the weight and both moments.
_OPTIMIZER_PASSES = 1 + 1 + 3 * 2


def step_calls(channel: GraphChannel, micros: Sequence[Sequence[Lesson]], trained: nn.Module, kept: bool) -> Calls:
    """What a step cannot do without, by part.

    Args:
        channel: with one link, under training.
        micros: lessons of the step's micro batches, alike within a batch.
        trained: whose parameters the optimizer updates.
        kept: the prompts' caches are there already.
    """
    calls: Calls = {}
    for number, lessons in enumerate(micros):
        for part, costs in _micro_calls(channel, lessons, number > 0, kept).items():
            calls.setdefault(part, []).extend(costs)
    return calls | {"optimizer": [optimizer_cost(trained)]}


def optimizer_cost(trained: nn.Module) -> Cost:
    """Clipping and AdamW: a handful of operations a weight, so bytes alone."""
    weights = sum(value.numel() for value in trained.parameters())
    return Cost(0.0, float(_OPTIMIZER_PASSES * MASTER_BYTES * weights))


def fuser_forward(fuser: FuserModule, entries: tuple[int, ...], tokens: int, element_bytes: int) -> Cost:
    """The fusion, reading master weights."""
    plain = fusion_cost(fuser, tokens, element_bytes, entries)
    return Cost(plain.flops, plain.bytes_moved + (MASTER_BYTES - element_bytes) * fusion_weights(fuser, entries))


def fuser_backward(
    fuser: FuserModule, entries: tuple[int, ...], tokens: int, element_bytes: int, *, first: bool, adds: bool
) -> Cost:
    """The backward pass of a fusion: counted operations; gradients of all weights, and of K and V where they need one.

    Args:
        fuser: of any form.
        entries: that are trained.
        tokens: fused.
        element_bytes: of K and V.
        first: nothing was fused before, so K and V as they come in need no gradient.
        adds: to gradients of earlier micro batches.
    """
    flops = fusion_backward_flops(cast("Any", type(fuser)), fuser.config, entries, tokens, to_receiver=not first)
    weights = fusion_weights(fuser, entries)
    moved = element_bytes * fused_numbers(fuser, entries, tokens)
    return Cost(float(flops), moved + (2 + adds) * MASTER_BYTES * weights)


def _micro_calls(channel: GraphChannel, lessons: Sequence[Lesson], adds: bool, kept: bool) -> Calls:
    lesson, rows, lm, link = lessons[0], len(lessons), channel.answers, channel.links[0]
    cost = model_cost(lm.config, lm.dtype.itemsize)
    fused = link.fuser, link.entries
    spans = list(itertools.pairwise(lesson.cuts))
    silent = [span for span in spans if span[1] <= lesson.fused[0][1]]
    behind = [_shape(lesson, rows, span) for span in spans[len(silent) :]]
    sizes = [rows * (b - a) for a, b in lesson.fused]
    prompts = _kept(link, lm, lesson, rows) if kept else _prompts(link, lesson, rows)
    return prompts | {
        "receiver_prompt": [] if kept else [cost.call(rows, b - a, a, cache_only=True) for a, b in silent],
        "fuser_forward": [fuser_forward(*fused, tokens, cost.element_bytes) for tokens in sizes],
        "response_forward": [cost.call(**shape) for shape in behind],
        "response_backward": [cost.backward(**shape) for shape in behind],
        "fuser_backward": [
            fuser_backward(*fused, tokens, cost.element_bytes, first=number == 0, adds=adds)
            for number, tokens in enumerate(sizes)
        ],
    }


def _shape(lesson: Lesson, rows: int, span: Span) -> dict[str, Any]:
    """Arguments of `ModelCost.call` for a stretch of the receiver's row."""
    start, end = span
    logits = max(0, end - max(start, lesson.prompt_length - 1))
    return {"rows": rows, "new": end - start, "past": start, "logits": logits, "cache_only": not logits}


def _prompts(link: Link, lesson: Lesson, rows: int) -> Calls:
    sharer = model_cost(link.sharer.config, link.sharer.dtype.itemsize)
    payload = rows * lesson.n_fused * len(link.sent) * link.fuser.config.sharer_dim * link.sharer.dtype.itemsize
    return {
        "sharer_prompt": [sharer.call(rows, lesson.fused_end, cache_only=True)],
        "message_transfer": [Cost(0.0, 2.0 * payload)],
    }


def _kept(link: Link, lm: LM, lesson: Lesson, rows: int) -> Calls:
    """Both caches are copied into the batch."""
    sent = lesson.n_fused * len(link.sent) * link.fuser.config.sharer_dim * link.sharer.dtype.itemsize
    cost = model_cost(lm.config, lm.dtype.itemsize)
    clean = lesson.cuts[1] * cost.layers * cost.kv_width * cost.element_bytes
    return {"kept_prompts": [Cost(0.0, 2.0 * rows * (sent + clean))]}


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


@dataclass(frozen=True)
class Trained:
    """Results of one cell and the machine's speeds during it."""

    results: list[TrainResult]
    speeds: Speeds


def measure_training(arms: Mapping[str, TrainArm], cell: TrainCell, repeats: Repeats) -> Trained:
    """Times one optimizer step of every arm in each round; the first warm-up round measures memory."""
    for arm in arms.values():
        arm.settle()
    receiver = next(iter(arms.values())).loop.session.models[0]
    meter = Meter(receiver.device, receiver.dtype)
    peaks: dict[str, int | None] = {}
    for _ in range(repeats.warm_up):
        for name, arm in arms.items():
            peaks.setdefault(name, with_peak(receiver.device, arm.step)[1])
    rounds: list[list[float]] = []
    readings: dict[str, list[TrainReading]] = {name: [] for name in arms}
    for number in range(repeats.timed):
        rounds.append(meter.measure())
        for name in rotated_order(list(arms), number):
            readings[name].append(arms[name].step())
    machine = best_speeds(rounds)
    results = [_summary(name, arms[name], cell, found, machine) for name, found in readings.items()]
    return Trained(_against_plain([replace(r, peak_bytes=peaks.get(r.arm)) for r in results]), machine)


def _summary(
    name: str, arm: TrainArm, cell: TrainCell, readings: Sequence[TrainReading], machine: Speeds
) -> TrainResult:
    floors = {part: floor_s(calls, machine) for part, calls in arm.calls.items() if calls}
    lessons = [lesson for micro in arm.loop.batches.of(0) for lesson in micro.lessons]
    return TrainResult(
        arm=name,
        cell=cell,
        total=Series(tuple(r.total_s for r in readings), sum(floors.values())),
        cpu_s=tuple(r.cpu_s for r in readings),
        floors_s=floors,
        losses=tuple(r.loss for r in readings),
        response_tokens=sum(len(lesson.response) for lesson in lessons),
        prompt_tokens=sum(lesson.prompt_length for lesson in lessons),
        held_bytes=arm.held_bytes(),
    )


def _against_plain(results: Sequence[TrainResult]) -> list[TrainResult]:
    base = next((r.total.median_s for r in results if r.arm == PLAIN), None)
    return [replace(r, times_plain=r.total.median_s / base) if base else r for r in results]
