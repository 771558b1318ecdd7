"""Fusion of several sharers written out one prompt, one stretch, one layer and one kind at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.channels.c2c import CacheToCache, Link
from harness.channels.prompt_layout import Plan
from harness.models.lm import LM


@torch.inference_mode()
def fused_logits(channel: CacheToCache, plan: Plan) -> Tensor:
    """Logits of the last prompt token, `[vocabulary]`, from transformers' own cache and masks."""
    caches = [_read(link.sharer, plan, 1 + i) for i, link in enumerate(channel.links)]
    own: Any = DynamicCache()
    logits = torch.empty(0)
    for start, end in zip(plan.cuts, plan.cuts[1:], strict=False):
        logits = _forward(channel.answers, plan, 0, start, end, own)
        here = [(a, b) for a, b in plan.fused if start <= a and b <= end]
        for a, b in here:
            _fuse(channel, own, caches, slice(a, b))
    return logits


def _fuse(channel: CacheToCache, own: Any, caches: list[Any], tokens: slice) -> None:
    clean = [(layer.keys.clone(), layer.values.clone()) for layer in own.layers]
    for link, cache in zip(channel.links, caches, strict=True):
        for entry, source in enumerate(link.fuser.sources()):
            if link.fuser.gate_logit[entry] <= 0:
                continue
            now = _pick(own.layers[source.receiver_layer], source.kind)
            read = now if channel.mode == "sequential" else clean[source.receiver_layer][source.kind]
            sent = _pick(cache.layers[source.sharer_layer], source.kind)
            now[0, :, tokens] += _delta(link, entry, sent[0, :, tokens], read[0, :, tokens])


def _delta(link: Link, entry: int, sent: Tensor, own: Tensor) -> Tensor:
    flat = [x.transpose(0, 1).flatten(1)[None] for x in (sent, own)]  # [1, tokens, heads * head_dim]
    added: Tensor = link.fuser(*flat, [entry])[0]
    return added.reshape(own.shape[1], own.shape[0], own.shape[2]).transpose(0, 1)


def _pick(layer: Any, kind: int) -> Tensor:
    found: Tensor = (layer.keys, layer.values)[kind]
    return found


def _read(lm: LM, plan: Plan, row: int) -> Any:
    cache = DynamicCache()
    _forward(lm, plan, row, 0, len(plan.ids[row]), cache)
    return cache


def _forward(lm: LM, plan: Plan, row: int, start: int, end: int, cache: Any) -> Tensor:
    logits: Tensor = lm.model(
        torch.tensor([plan.ids[row][start:end]]),
        position_ids=torch.arange(start, end)[None],
        attention_mask=torch.tensor([plan.real[row][:end]]).long(),
        **{lm.cache_argument: cache},
    ).logits
    return logits[0, -1]
