"""Optimizer and learning-rate schedule, and both as data that can be saved and restored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RunError
from harness.training.recipe import Recipe
from harness.training.trained import Trained

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
