"""Peak rates of this machine, and the least seconds that a forward call must take at them.

Rates are measured in the process, threads and minute of the timings divided by them: operations by the best of a few
products of a language model's kind, bandwidth by reading, or by a product of one row (as in decoding) where that reads
faster. That product's rate is given too: where it falls short, the gap is the matrix library's and in no floor.

torch counts products on modules on device ``meta``, whatever the architecture. Formulas cover what no counter knows:
pairs of tokens that see each other (attention), what need not be computed, and bytes. A call is charged the larger of
operations and bytes, as if they overlapped perfectly; what no answer needs is free (the last layer behind its K and V
where only the cache is wanted). Dense models only: of a mixture every expert would be charged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from harness.fusers.interface import FuserModule
from harness.inference.types import Call, ForwardCall
from harness.models.lm import kv_shape

_PRODUCTS = ((256, 1024, 1024), (256, 1024, 3072), (1024, 1024, 1024))

_GPU_PRODUCTS = ((4096, 4096, 4096), (8192, 8192, 8192))

_READ_BYTES = 256 * 2**20

_ROW_WIDTH = 1024


@dataclass(frozen=True)
class Speeds:
    """What the machine does in a second.

    Attributes:
        flops_per_s: floating-point operations in products.
        bytes_per_s: bytes read, by whatever reads fastest.
        row_bytes_per_s: bytes of weights in a product of one row.
    """

    flops_per_s: float
    bytes_per_s: float
    row_bytes_per_s: float = 0.0


class Meter:
    """Measures a device again and again; its buffers are made once."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        shapes = _GPU_PRODUCTS if device.type == "cuda" else _PRODUCTS
        self._device = device
        self._factors = [
            (torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype))
            for m, k, n in shapes
        ]
        self._block = torch.ones(_READ_BYTES // 4, device=device)
        self._row = torch.randn(_ROW_WIDTH, device=device).to(dtype)
        self._weights = torch.randn(_READ_BYTES // 4 // _ROW_WIDTH, _ROW_WIDTH, device=device).to(dtype)

    def measure(self) -> list[float]:
        """One round: operations a second of every product, then bytes a second of reading and of a one-row product."""
        rates = []
        for a, b in self._factors:
            seconds = self._seconds(partial(linear, a, b))
            rates.append(2 * a.shape[0] * a.shape[1] * b.shape[0] / seconds)
        row_s = self._seconds(lambda: torch.mv(self._weights, self._row))
        return [*rates, _READ_BYTES / self._seconds(self._block.sum), self._weights.nbytes / row_s]

    def _seconds(self, call: Callable[[], object]) -> float:
        call()
        self._settle()
        start = time.perf_counter()
        call()
        self._settle()
        return time.perf_counter() - start

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def best_speeds(rounds: Sequence[Sequence[float]]) -> Speeds:
    """The median of every figure over the rounds; of the products, and of the ways to read, the best counts."""
    *rates, bandwidth, row = (median(column) for column in zip(*rounds, strict=True))
    return Speeds(max(rates), max(bandwidth, row), row)


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


def count_products(config: Any) -> Products:
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
    whole = counted_operations(lambda: model(**asked, use_cache=False))
    layers = counted_operations(lambda: model.base_model(**asked, use_cache=False))
    return Products(layers, whole - layers)


def _nothing(_: Any, query: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    return torch.empty_like(query.transpose(1, 2)), None


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def fusion_flops(form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int) -> int:
    """Counts one evaluation of a fuser."""
    fuser, sharer, receiver = _on_meta(form, config, entries, tokens)
    return counted_operations(lambda: fuser.eval()(sharer, receiver, entries))


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
@torch.enable_grad()
def fusion_backward_flops(
    form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int, to_receiver: bool
) -> int:
    """Counts the backward pass of one fusion: gradients of all weights, with `to_receiver` of K and V too."""
    fuser, sharer, receiver = _on_meta(form, config, entries, tokens)
    added = fuser.train()(sharer, receiver.requires_grad_(to_receiver), entries)
    return counted_operations(lambda: added.sum().backward())


def _on_meta(
    form: type[FuserModule], config: Any, entries: tuple[int, ...], tokens: int
) -> tuple[FuserModule, Tensor, Tensor]:
    with torch.device("meta"):
        fuser = form(config)
        sharer = torch.empty(len(fuser.reads(entries)), tokens, config.sharer_dim)
        receiver = torch.empty(len(fuser.writes(entries)), tokens, config.receiver_dim)
    return fuser, sharer, receiver


def counted_operations(call: Callable[[], Any]) -> int:
    """Operations of one call, which may build a graph or run one backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes of one call."""

    flops: float
    bytes_moved: float

    def seconds(self, speeds: Speeds) -> float:
        """The floor of the call."""
        return max(self.flops / speeds.flops_per_s, self.bytes_moved / speeds.bytes_per_s)


def floor_s(costs: Iterable[Cost], speeds: Speeds) -> float:
    """Seconds of calls that wait for one another."""
    return sum(cost.seconds(speeds) for cost in costs)


@dataclass(frozen=True)
class ModelCost:
    """What decides a model's costs.

    Attributes:
        layer_weights: parameters of one layer's products.
        tail_weights: those of them that come after a layer's K and V.
        entry_weights: those of them that read the layer's input: Q, K and V.
        head_weights: of the vocabulary projection.
        attention: query heads times head_dim.
        kv_width: numbers that one token adds to one layer's cache.
        token_flops: counted operations of all layers' products, for one token.
        logit_flops: likewise of the vocabulary projection, for one position.
    """

    layers: int
    layer_weights: int
    tail_weights: int
    entry_weights: int
    head_weights: int
    attention: int
    kv_width: int
    element_bytes: int
    token_flops: int
    logit_flops: int

    def call(self, rows: int, new: int, past: int = 0, logits: int = 0, cache_only: bool = False) -> Cost:
        """One forward call.

        Args:
            rows: sequences.
            new: tokens of each that are read.
            past: tokens of each in the cache already.
            logits: positions of each that are projected onto the vocabulary.
            cache_only: nothing but the cache is wanted.
        """
        idle = self.tail_weights if cache_only else 0
        weights = self.layers * self.layer_weights - idle
        seen = new * past + new * (new + 1) / 2
        busy = self.layers - int(cache_only)
        made = rows * (new * (self.token_flops - 2 * idle) + logits * self.logit_flops)
        flops = made + 4 * rows * busy * self.attention * seen
        read = weights + (self.head_weights if logits else 0) + rows * self.layers * self.kv_width * (past + new)
        return Cost(flops, self.element_bytes * read)

    def backward(self, rows: int, new: int, past: int = 0, logits: int = 0, cache_only: bool = False) -> Cost:
        """The way back through one forward call of frozen weights to the past in the cache; see `call`.

        Every product is done once more for the gradient of its input, attention's two twice over. Weights get no
        gradient, and neither does what the first layer reads: there only the past needs one.
        """
        idle = self.entry_weights + (self.tail_weights if cache_only else 0)
        weights = max(0, self.layers * self.layer_weights - idle)
        seen, busy = new * past + new * (new + 1) / 2, self.layers - int(cache_only)
        attended = (4 * max(0, busy - 1) * seen + 3 * new * past * min(1, busy)) * self.attention
        flops = 2 * rows * (new * weights + logits * self.head_weights + attended)
        cache = 2 * rows * self.layers * self.kv_width * (past + new)  # read, and its gradient written
        return Cost(flops, self.element_bytes * (weights + (self.head_weights if logits else 0) + cache))

    def decode(self, rows: int, past: int, calls: int) -> list[Cost]:
        """Calls of one token each."""
        return [self.call(rows, 1, past + i, logits=1) for i in range(calls)]


def call_cost(call: Call, element_bytes: int) -> Cost:
    """The floor of one logged call; `element_bytes` are those of a fuser's numbers."""
    if isinstance(call, ForwardCall):
        cost = model_cost(call.lm.config, call.lm.dtype.itemsize)
        return cost.call(call.rows, call.new, call.past, call.logits, cache_only=call.logits == 0)
    return fusion_cost(call.fuser, call.tokens, element_bytes, call.entries)


def model_cost(config: Any, element_bytes: int) -> ModelCost:
    """Reads the costs of a dense decoder with a gated MLP off its configuration."""
    shape, hidden = kv_shape(config), int(config.hidden_size)
    attention = int(config.num_attention_heads) * shape.head_dim
    kv_width = 2 * shape.heads * shape.head_dim
    tail, made = 2 * hidden * attention + 3 * hidden * int(config.intermediate_size), count_products(config)
    return ModelCost(
        layers=shape.layers,
        layer_weights=tail + hidden * kv_width,
        tail_weights=tail,
        entry_weights=hidden * (attention + kv_width),
        head_weights=hidden * int(config.vocab_size),
        attention=attention,
        kv_width=kv_width,
        element_bytes=element_bytes,
        token_flops=made.token,
        logit_flops=made.logits,
    )


def fusion_cost(fuser: FuserModule, tokens: int, element_bytes: int, entries: tuple[int, ...] | None = None) -> Cost:
    """One fusion of `tokens` tokens: counted operations; weights are read, K and V read and what is added written.

    Args:
        fuser: of any form.
        tokens: fused.
        element_bytes: of weights, K and V.
        entries: of the fuser; None for all.
    """
    chosen = fuser.all_entries() if entries is None else entries
    flops = fusion_flops(cast("Any", type(fuser)), fuser.config, chosen, tokens)
    return Cost(
        float(flops), float(element_bytes * (fusion_weights(fuser, chosen) + fused_numbers(fuser, chosen, tokens)))
    )


def fusion_weights(fuser: FuserModule, entries: tuple[int, ...]) -> float:
    """Parameters that a fusion of these entries reads; a part of the entries has its part of the parameters."""
    whole = sum(value.numel() for value in fuser.parameters())
    return whole * len(entries) / max(1, len(fuser.all_entries()))


def fused_numbers(fuser: FuserModule, entries: tuple[int, ...], tokens: int) -> int:
    """Numbers of K and V that a fusion reads and writes."""
    read, written = len(fuser.reads(entries)), len(fuser.writes(entries))
    return tokens * (read * int(fuser.config.sharer_dim) + 2 * written * int(fuser.config.receiver_dim))
