"""The least that a call must cost (roofline): its operations at the machine's rate, its bytes at its bandwidth.

Operations of products are counted by torch, see `harness.bench.counted`; by formula stand what no counter knows: pairs
of tokens that see each other, what need not be computed, and bytes. Each call is charged the larger of the two, as if
they overlapped perfectly; what no answer needs is not charged (the last layer behind its K and V where only the cache
is wanted). Dense models only: of a mixture every expert would be charged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from harness.bench.counted import fusion_flops, products
from harness.bench.machine import Speeds
from harness.call_log import Call, ForwardCall
from harness.fusion.interface import FuserModule
from harness.fusion.shapes import kv_shape


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
    tail, made = 2 * hidden * attention + 3 * hidden * int(config.intermediate_size), products(config)
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
