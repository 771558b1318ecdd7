"""Trains a fuser between two frozen models exactly as the cache channel will use it.

Guarantees that the receiver's cache is fused for every prompt token but the last and that the receiver
reads the last token and its own reply alone, so what is learned is what is evaluated. Only the fuser's
weights move. The trade-off: rows of one batch share one length, so there is no padding to mask.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from harness.demo.recipe import Outcome, Progress, silent
from harness.fusion.fuser import Fuser
from harness.fusion.interface import FuserModule
from harness.models import cache_argument


class FuserBatch(NamedTuple):
    """Prompts with their replies; both models read the same ids.

    Attributes:
        ids: ``[batch, prompt + reply]``.
        prompt_tokens: how many of the columns are the prompt.
        targets: ``[batch, reply + 1]``, what the receiver should predict from the last prompt token on.
    """

    ids: Tensor
    prompt_tokens: int
    targets: Tensor


def fused_logits(receiver: Any, sharer: Any, fuser: Fuser, batch: FuserBatch, donor: Tensor | None = None) -> Tensor:
    """Runs the cache channel on a batch (section 3 of the paper), differentiable in the fuser's weights.

    Args:
        receiver: the model that answers.
        sharer: the model whose cache is read.
        fuser: between the two; soft gates in training, hard ones in evaluation.
        batch: what both read.
        donor: other prompts ``[batch, prompt]`` for the sharer to read instead: the mismatched control.

    Returns:
        The receiver's logits from the last prompt token on, ``[batch, reply + 1, vocabulary]``.
    """
    cut = batch.prompt_tokens - 1
    with torch.no_grad():
        own = prefill(receiver, batch.ids[:, :cut])  # [2, layers, batch, tokens, heads * head_dim]
        other = prefill(sharer, (batch.ids if donor is None else donor)[:, :cut])
    return continued(receiver, fused_cache(fuser, own, other), batch.ids[:, cut:])


def fused_cache(fuser: FuserModule, own: Tensor, other: Tensor) -> Tensor:
    """The receiver's cache with what the fuser makes of the sharer's added, all as `prefill` returns them."""
    layers = torch.tensor(fuser.config.layer_map)
    fused_layers, read_layers = layers[:, 0], layers[:, 1]
    added = fuser(other[:, read_layers].flatten(0, 1), own[:, fused_layers].flatten(0, 1))
    return own.index_add(1, fused_layers, added.unflatten(0, (2, -1)))


def continued(model: Any, past: Tensor, ids: Tensor) -> Tensor:
    """Reads ids behind a cache as `prefill` returns it: logits ``[batch, tokens, vocabulary]``."""
    logits: Tensor = _forward(model, ids, _as_cache(past, model.config.num_key_value_heads, model.config)).logits
    return logits


def prefill(model: Any, ids: Tensor) -> Tensor:
    """Reads ids and returns the cache, ``[2 (K, V), layers, batch, tokens, heads * head_dim]``."""
    cache = DynamicCache(config=model.config)
    _forward(model.model, ids, cache)
    keys = torch.stack([layer.keys for layer in cache.layers])  # [layers, batch, heads, tokens, head_dim]
    values = torch.stack([layer.values for layer in cache.layers])
    return torch.stack([keys, values]).transpose(3, 4).flatten(4)


def _forward(model: Any, ids: Tensor, cache: DynamicCache) -> Any:
    architecture: type = type(model)
    return model(input_ids=ids, use_cache=True, **{cache_argument(architecture): cache})


def _as_cache(stacked: Tensor, heads: int, config: Any) -> Any:
    keys, values = stacked.unflatten(-1, (heads, -1)).transpose(3, 4)
    cache = DynamicCache(config=config)
    for layer in range(keys.shape[0]):
        cache.update(keys[layer], values[layer], layer)
    return cache


def fit_fuser(
    receiver: Any,
    sharer: Any,
    fuser: Fuser,
    batches: Iterable[FuserBatch],
    steps: int,
    learning_rate: float = 3e-3,
    progress: Progress = silent,
) -> Outcome:
    """Trains the fuser for a fixed number of steps, the gates' temperature falling over all of them.

    Args:
        receiver: frozen.
        sharer: frozen.
        fuser: trained in place and left in evaluation mode.
        batches: at least ``steps`` of them.
        steps: optimizer steps.
        learning_rate: peak of the linear decay.
        progress: see ``Progress``.

    Returns:
        The smoothed loss at the end and the seconds taken.
    """
    receiver.eval().requires_grad_(False)
    sharer.eval().requires_grad_(False)
    drawn = iter(batches)
    return optimize(
        fuser, lambda: reply_loss(receiver, sharer, fuser, next(drawn)), steps, learning_rate, progress=progress
    )


def reply_loss(receiver: Any, sharer: Any, fuser: Fuser, batch: FuserBatch) -> Tensor:
    """Next-token loss on a batch's replies behind the fused cache (section 3.4 of the paper)."""
    logits = fused_logits(receiver, sharer, fuser, batch)
    return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


def optimize(
    fuser: Fuser, draw_loss: Callable[[], Tensor], steps: int, learning_rate: float, progress: Progress = silent
) -> Outcome:
    """Takes optimizer steps with warm-up and linear decay, the gates' temperature falling over all of them.

    Args:
        fuser: trained in place and left in evaluation mode.
        draw_loss: draws a batch and returns its loss.
        steps: optimizer steps.
        learning_rate: peak.
        progress: see ``Progress``.

    Returns:
        The smoothed loss at the end and the seconds taken.
    """
    optimizer = torch.optim.AdamW(fuser.train().parameters(), lr=learning_rate, weight_decay=0.01)
    start, smooth = time.perf_counter(), math.inf
    for step in range(steps):
        fuser.set_temperature_step(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / (0.1 * steps + 1)) * (1 - step / steps)
        loss = draw_loss()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fuser.parameters(), 1.0)
        optimizer.step()
        now = float(loss.detach())
        smooth = now if math.isinf(smooth) else 0.95 * smooth + 0.05 * now
        progress("fuse", step + 1, steps, smooth)
    fuser.eval()
    return Outcome("fuse", steps, time.perf_counter() - start, smooth)
