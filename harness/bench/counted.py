"""Operations of models and fusers as torch itself counts them, on modules without memory (device ``meta``).

Guarantees the products that a call makes, whatever the architecture. Attention is left out of a model's count: it
depends on what is visible, and no counter knows masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.fusion.interface import FuserModule

_NO_ATTENTION = "none"


@dataclass(frozen=True)
class Products:
    """Floating-point operations of a model's matrix products.

    Attributes:
        token: of all layers, for one token.
        logits: of the vocabulary projection, for one position.
    """

    token: int
    logits: int


def products(config: Any) -> Products:
    """Counts a decoder's products for one token; see `Products`."""
    return _products(cast("Any", type(config)), config.to_json_string(use_diff=False))


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _products(kind: type[Any], text: str) -> Products:
    import json

    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

    AttentionInterface.register(_NO_ATTENTION, _nothing)
    AttentionMaskInterface.register(_NO_ATTENTION, lambda **_: None)
    config = kind.from_dict(json.loads(text))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=_NO_ATTENTION).eval()
        asked = {"input_ids": torch.zeros(1, 1, dtype=torch.long), "attention_mask": torch.zeros(1, 1, 1, 1)}
    whole = counted(lambda: model(**asked, use_cache=False))
    layers = counted(lambda: model.base_model(**asked, use_cache=False))
    return Products(layers, whole - layers)


def _nothing(_: Any, query: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    return torch.empty_like(query.transpose(1, 2)), None


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def fusion_flops(form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int) -> int:
    """Counts one evaluation of a fuser."""
    fuser, sharer, receiver = _on_meta(form, config, entries, tokens)
    return counted(lambda: fuser.eval()(sharer, receiver, entries))


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
@torch.enable_grad()
def fusion_backward_flops(
    form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int, to_receiver: bool
) -> int:
    """Counts the backward pass of one fusion: gradients of all weights, with `to_receiver` of K and V too."""
    fuser, sharer, receiver = _on_meta(form, config, entries, tokens)
    added = fuser.train()(sharer, receiver.requires_grad_(to_receiver), entries)
    return counted(lambda: added.sum().backward())


def _on_meta(
    form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int
) -> tuple[FuserModule, Tensor, Tensor]:
    with torch.device("meta"):
        fuser = form(config)
        sharer = torch.empty(len(fuser.reads(entries)), tokens, config.sharer_dim)
        receiver = torch.empty(len(fuser.writes(entries)), tokens, config.receiver_dim)
    return fuser, sharer, receiver


def counted(call: Callable[[], Any]) -> int:
    """Operations of one call, which may build a graph or run one backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
