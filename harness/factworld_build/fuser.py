"""Trains and measures the fuser of the embedded pair.

The fuser is trained between two frozen models exactly as the cache channel will use it: the receiver's cache is fused
for every prompt token but the last, and the receiver reads the last token and its own reply alone. Only the fuser's
weights move. The trade-off: rows of one batch share one length, so there is no padding to mask.

Accuracies of the pair's channels are measured in a few lines for the trainer and its tests, with the same prompts as
the harness proper, which alone counts for results, and with no more than the two models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from harness.factworld_build.models import Outcome, Progress, letter_batch, without_progress
from harness.factworld_build.world import LABELS, Question, note_chat, question_chat, render
from harness.fusers.c2c import Fuser
from harness.fusers.interface import FuserModule
from harness.models.lm import cache_argument


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
    return extend_cache(receiver, fused_cache(fuser, own, other), batch.ids[:, cut:])


def fused_cache(fuser: FuserModule, own: Tensor, other: Tensor) -> Tensor:
    """The receiver's cache with what the fuser makes of the sharer's added, all as `prefill` returns them."""
    layers = torch.tensor(fuser.config.layer_map)
    fused_layers, read_layers = layers[:, 0], layers[:, 1]
    added = fuser(other[:, read_layers].flatten(0, 1), own[:, fused_layers].flatten(0, 1))
    return own.index_add(1, fused_layers, added.unflatten(0, (2, -1)))


def extend_cache(model: Any, past: Tensor, ids: Tensor) -> Tensor:
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
    progress: Progress = without_progress,
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
    fuser: Fuser,
    draw_loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    progress: Progress = without_progress,
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


def fuser_batch(tokenizer: Any, questions: Sequence[Question]) -> FuserBatch:
    """The questions as the fuser's trainer wants them: prompt, letter, and the end token to predict."""
    batch = letter_batch(tokenizer, questions)
    return FuserBatch(batch.ids, batch.ids.shape[1] - 1, batch.targets[:, -2:])


@torch.no_grad()
def accuracies(
    receiver: Any, sharer: Any, fuser: Fuser | None, tokenizer: Any, questions: Sequence[Question]
) -> dict[str, float]:
    """Accuracy of each channel on the questions, by the most likely of the four letters.

    Args:
        receiver: the model that answers.
        sharer: the model that helps.
        fuser: between the two, or None to leave the cache channel out.
        tokenizer: of both.
        questions: to ask.

    Returns:
        ``receiver``, ``sharer``, ``t2t`` and, with a fuser, ``c2c`` and ``c2c_mismatched``.
    """
    batch = fuser_batch(tokenizer, questions)
    prompts = batch.ids[:, : batch.prompt_tokens]
    logits = {
        "receiver": receiver(prompts).logits[:, -1],
        "sharer": sharer(prompts).logits[:, -1],
        "t2t": _after_notes(receiver, sharer, tokenizer, questions),
    }
    if fuser is not None:
        logits["c2c"] = fused_logits(receiver, sharer, fuser, batch)[:, 0]
        logits["c2c_mismatched"] = fused_logits(receiver, sharer, fuser, batch, prompts.roll(len(questions) // 2, 0))[
            :, 0
        ]
    return {name: _share_right(tokenizer, value, questions) for name, value in logits.items()}


def _share_right(tokenizer: Any, logits: Tensor, questions: Sequence[Question]) -> float:
    letters = logits[:, tokenizer.convert_tokens_to_ids(list(LABELS))]  # [questions, 4]
    keys = torch.tensor([LABELS.index(q.key) for q in questions])
    return int((letters.argmax(-1) == keys).sum()) / len(questions)


def _after_notes(receiver: Any, sharer: Any, tokenizer: Any, questions: Sequence[Question]) -> Tensor:
    requests = torch.tensor(render(tokenizer, [note_chat(q.fact) for q in questions]))
    written = sharer.generate(
        requests,
        attention_mask=torch.ones_like(requests),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )[:, requests.shape[1] :]
    notes = tokenizer.batch_decode(written, skip_special_tokens=True)
    chats = [
        [*note_chat(q.fact), {"role": "assistant", "content": text}, *question_chat(q)]
        for q, text in zip(questions, notes, strict=True)
    ]
    rows = render(tokenizer, chats)
    return torch.stack([receiver(torch.tensor([row])).logits[0, -1] for row in rows])
