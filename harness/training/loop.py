"""The training loop, its optimizer and schedule, and validation through the channel as it is evaluated.

Guarantees that a step's gradient is that of the mean over its response tokens, however they are spread over
micro-batches and processes, and that what a step does depends on the recipe, the weights and its number alone.
Optimizer and learning-rate schedule can be saved and restored as data.

Validation measures a task's accuracy with the prompts, engine and scorer of a run, with hard gates. A question that
fails is counted among those asked, never as a right answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from harness.benchmarks.questions import Item, load_benchmark
from harness.channels.engine import Arm, run
from harness.channels.interface import Channel
from harness.config import build
from harness.errors import RunError
from harness.evaluation.accuracy_pass import to_sample
from harness.inference.batching import Budget
from harness.inference.types import CallStats
from harness.training.checkpoints import Checkpoints, Position
from harness.training.dataloader import Batches, Micro, derived_seed
from harness.training.dataset import Reason, count_reasons, left_out_summary
from harness.training.interface import Trained
from harness.training.metrics_log import LEFT_OUT, Log
from harness.training.recipe import Recipe
from harness.training.setup import Session

# Neither may change where a run is resumed.
NEW_RUN = "start a new run with a lower learning rate or in float32"


@dataclass
class Optimisation:
    """AdamW with its schedule.

    Attributes:
        optimizer: over the trained parameters.
        scheduler: steps once an optimizer step.
        grad_norm: gradients are clipped to it.
    """

    optimizer: torch.optim.Optimizer
    scheduler: Any
    grad_norm: float

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> float:
        """Applies the gradients, clears them and returns their norm before clipping.

        Raises:
            RunError: if they are not finite.
        """
        parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.grad_norm))
        if not math.isfinite(norm):
            raise RunError(
                f"The gradients are not finite (norm {norm}) at learning rate {self.learning_rate:.1e}; {NEW_RUN}."
            )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def skip(self) -> None:
        """Goes a step on in the schedule where there are no gradients; no weight moves."""
        self.optimizer.step()  # the schedule has to come after it
        self.scheduler.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, flat."""
        return {
            f"{number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for number, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }

    def restore(self, tensors: Mapping[str, Tensor], schedule: Mapping[str, Any]) -> None:
        """Goes back to a saved state.

        Raises:
            KeyError: if the tensors belong to other parameters.
        """
        whole = self.optimizer.state_dict()
        whole["state"] = {}
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            whole["state"].setdefault(int(number), {})[name] = value
        if tensors and set(whole["state"]) != {index for group in whole["param_groups"] for index in group["params"]}:
            raise KeyError("it holds other parameters than those trained")
        self.optimizer.load_state_dict(whole)
        self.scheduler.load_state_dict(dict(schedule))
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate


def optimisation(trained: Trained | nn.Module, recipe: Recipe, steps: int) -> Optimisation:
    """Builds the recipe's optimizer and its schedule over `steps`."""
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW(
        trained.parameters(),
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        weight_decay=recipe.weight_decay,
    )
    scheduler = get_scheduler(
        recipe.schedule, optimizer, num_warmup_steps=round(recipe.warm_up * steps), num_training_steps=steps
    )
    return Optimisation(optimizer, scheduler, recipe.grad_norm)


@dataclass
class Loop:
    """A run under way.

    Attributes:
        session: models, objective, processes.
        batches: this process's share of the rows.
        optimisation: optimizer and schedule.
        checkpoints: where the run is saved; only the first process writes.
        log: what it tells.
        quizzes: this process's share of the validation questions.
        position: steps done so far.
    """

    session: Session
    batches: Batches
    optimisation: Optimisation
    checkpoints: Checkpoints
    log: Log
    quizzes: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    position: Position = field(default_factory=Position)

    def run(self) -> Position:
        """Trains to the end.

        Raises:
            RunError: if the loss or its gradient stops being finite, or nothing can be learned from the data.
        """
        recipe, total, position = self.session.recipe, self.session.steps, self.position
        speed = _Speed(position.step, position.tokens)
        while position.step < total:
            started, busy = time.perf_counter(), time.process_time()
            values = self.step(position.step)
            spent = time.perf_counter() - started
            position.seconds, position.cpu_s = position.seconds + spent, position.cpu_s + time.process_time() - busy
            speed.seconds += spent
            done, last = position.step, position.step == total
            if last or done % recipe.log_every == 0:
                self.log.write(done, total, values | speed.of(position, total))
            if last or done % recipe.validate_every == 0:
                self._validate()
            if last or done % recipe.save_every == 0:
                self._save()
        if position.left_out:
            self.log.say(f"{left_out_summary(position.left_out)}.")
        return position

    def step(self, step: int) -> dict[str, float]:
        """Does one optimizer step and returns what there is to tell of it.

        Raises:
            RunError: see `run`.
        """
        objective, position = self.session.objective, self.position
        objective.train()
        objective.set_step(step)
        micros = self.batches.of(step)
        tokens, used, left_out = self._counts(micros)
        told = {"learning_rate": self.optimisation.learning_rate}
        if tokens:
            told |= {"loss": self._learn(micros, tokens), **objective.figures(), "grad_norm": self.optimisation.step()}
        else:
            self.optimisation.skip()
        position.step, position.tokens = step + 1, position.tokens + tokens
        position.skipped += self.session.recipe.global_batch - used
        self._count(left_out, micros)
        self._check_learnable()
        counts = {f"{LEFT_OUT}{name}": count for name, count in position.left_out.items()}
        return {**told, "skipped": position.skipped, **counts}

    def _count(self, left_out: Sequence[int], micros: Sequence[Micro]) -> None:
        """Adds up the rows left out by reason, and says of the first of each reason what is wrong with it."""
        for one in (one for micro in micros for one in micro.left_out):
            self.log.explain(one)
        for reason, count in zip(Reason, left_out, strict=True):
            if count:
                self.position.left_out[reason.name] = self.position.left_out.get(reason.name, 0) + count

    def _learn(self, micros: Sequence[Micro], tokens: int) -> float:
        """Adds up the step's gradients and returns its mean loss."""
        loss = torch.stack([self._backward(micro, tokens, micro is micros[-1]) for micro in micros]).sum()
        mean = float(self._sum(loss)) / tokens
        if not math.isfinite(mean):
            raise RunError(f"The loss is {mean} at step {self.position.step + 1}; {NEW_RUN}.")
        return mean

    def _backward(self, micro: Micro, tokens: int, last: bool) -> torch.Tensor:
        """Adds the gradient of one micro batch; processes average theirs, so each counts as many times as there are."""
        session = self.session
        with nullcontext() if last else session.accelerator.no_sync(session.wrapped):
            torch.manual_seed(derived_seed(session.recipe.seed, "noise", self.position.step, micro.number))
            loss: torch.Tensor = session.wrapped(micro.lessons, self.batches.kept(micro))
            (loss * (session.accelerator.num_processes / tokens)).backward()
        return loss.detach()

    def _counts(self, micros: Sequence[Micro]) -> tuple[int, int, list[int]]:
        """Response tokens, useful rows and rows left out for each reason, over all processes."""
        tokens = sum(len(one.response) for micro in micros for one in micro.lessons)
        rows = sum(len(micro.lessons) for micro in micros)
        left_out = count_reasons(one.reason for micro in micros for one in micro.left_out)
        summed = self._sum(torch.tensor([tokens, rows, *left_out])).tolist()
        return int(summed[0]), int(summed[1]), [int(count) for count in summed[2:]]

    def _check_learnable(self) -> None:
        recipe, position = self.session.recipe, self.position
        enough = position.skipped >= len(self.session.corpus) - recipe.held_out_rows
        if not position.tokens and (enough or position.step == self.session.steps):
            raise RunError(
                f"None of {position.skipped} rows can be learned from (nothing is read that is longer than "
                f"{recipe.max_length} tokens); {left_out_summary(position.left_out)}."
            )

    def _validate(self) -> None:
        told = self._held_out() | self._accuracies()
        if not told:
            return
        self.log.write(self.position.step, self.session.steps, told)
        value, best = _score(told), self.position.best_score
        if value is not None and (best is None or value > best):
            self.position.best_step, self.position.best_score = self.position.step, value
            self._save()

    @torch.no_grad()
    def _held_out(self) -> dict[str, float]:
        if not self.session.recipe.held_out_rows:
            return {}
        objective, found = self.session.objective, torch.zeros(4, device=self.session.device)
        for micro in self.batches.held_out():
            found[3] += len(micro.left_out)
            if micro.lessons:
                tokens = sum(len(one.response) for one in micro.lessons)
                loss = objective.evaluated_loss(micro.lessons)
                finite = math.isfinite(float(loss))
                found[:3] += torch.tensor([float(loss), tokens, 0] if finite else [0, 0, len(micro.lessons)]).to(found)
        total, tokens, errors, left_out = self._sum(found).tolist()
        told = {"held_out_left_out": left_out} if left_out else {}
        if errors:
            return {**told, "held_out_errors": errors}  # a mean over the others would look better than it is
        return {**told, "held_out_loss": total / tokens} if tokens else told

    def _accuracies(self) -> dict[str, float]:
        told = {}
        for name, items in self.quizzes.items():
            here = score(items, self.session.objective.as_evaluated(), self.session.recipe.validate_batch)
            counts = torch.tensor([here.asked, here.right, here.errors], device=self.session.device)
            asked, right, errors = self._sum(counts).tolist()
            told[f"accuracy/{name}"] = right / asked
            if errors:
                told[f"errors/{name}"] = errors
        return told

    def _save(self) -> None:
        if self.session.accelerator.is_main_process and self.checkpoints.newest() != self.position:
            self.checkpoints.write(self.position, self.session.objective, self.optimisation)
        self.session.accelerator.wait_for_everyone()

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        accelerator = self.session.accelerator
        here = value.to(accelerator.device) if accelerator.num_processes > 1 else value
        total: torch.Tensor = accelerator.reduce(here, "sum")
        return total


def _score(told: Mapping[str, float]) -> float | None:
    """Mean accuracy, or the held-out loss turned round; None where neither was found."""
    accuracy = [value for name, value in told.items() if name.startswith("accuracy/")]
    if accuracy:
        return fmean(accuracy)
    return -told["held_out_loss"] if "held_out_loss" in told else None


@dataclass
class _Speed:
    """Tokens and seconds of this session, whatever went before it."""

    step: int
    tokens: int
    seconds: float = 0.0

    def of(self, position: Position, total: int) -> dict[str, float]:
        done = position.step - self.step
        return {
            "tokens_per_s": (position.tokens - self.tokens) / self.seconds,
            "eta_s": self.seconds / done * (total - position.step),
        }


@dataclass(frozen=True)
class Score:
    """Questions asked, how many were answered right, and how many failed."""

    asked: int
    right: int
    errors: int


def load_quizzes(names: Sequence[str], limit: int | None, rank: int = 0, world: int = 1) -> dict[str, list[Item]]:
    """Loads tasks, groups flattened, and this process's share of their questions.

    Raises:
        UserError: if a name is unknown or a task's data is missing.
    """
    if not names:
        return {}
    found = load_benchmark(build({"tasks": list(names), "limit": limit}, "validate_tasks"))
    return {name: items[rank::world] for name, items in found.items.items()}


def score(items: Sequence[Item], channel: Channel, batch_size: int) -> Score:
    """Asks questions through a channel."""
    right, errors = 0, 0
    for outcome in run(channel, [Arm(channel)], [item.request for item in items], Budget(batch_size), [CallStats()]):
        for place, answer in zip(outcome.indices, outcome.answers[0], strict=True):
            sample = to_sample(items[place], channel.name, "", answer)
            right, errors = right + bool(sample.correct), errors + (sample.error is not None)
    return Score(len(items), right, errors)
