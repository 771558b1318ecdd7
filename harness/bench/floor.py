"""The least that a forward call must cost: its operations at the machine's rate, its bytes at its bandwidth.

Guarantees arithmetic on shapes alone. Each call is charged the larger of the two, as if they overlapped perfectly;
what no answer needs is not charged (the last layer behind its K and V where only the cache is wanted). Dense
models only: of a mixture every expert would be charged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.bench.machine import Speeds
from harness.fusion.config import FuserConfig
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
    """

    layers: int
    layer_weights: int
    tail_weights: int
    entry_weights: int
    head_weights: int
    attention: int
    kv_width: int
    element_bytes: int

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
        flops = 2 * rows * (new * weights + logits * self.head_weights + 2 * busy * self.attention * seen)
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


def model_cost(config: Any, element_bytes: int) -> ModelCost:
    """Reads the costs of a dense decoder with a gated MLP off its configuration."""
    shape, hidden = kv_shape(config), int(config.hidden_size)
    attention = int(config.num_attention_heads) * shape.head_dim
    kv_width = 2 * shape.heads * shape.head_dim
    tail = 2 * hidden * attention + 3 * hidden * int(config.intermediate_size)
    return ModelCost(
        layers=shape.layers,
        layer_weights=tail + hidden * kv_width,
        tail_weights=tail,
        entry_weights=hidden * (attention + kv_width),
        head_weights=hidden * int(config.vocab_size),
        attention=attention,
        kv_width=kv_width,
        element_bytes=element_bytes,
    )


def fusion_cost(config: FuserConfig, tokens: int, element_bytes: int) -> Cost:
    """One fusion of `tokens` tokens through all entries: the products, reading the weights, K and V in and out."""
    weights, entries = fusion_weights(config), 2 * len(config.layer_map)
    moved = tokens * (config.sharer_dim + 2 * config.receiver_dim)
    return Cost(2.0 * entries * weights * tokens, float(element_bytes * entries * (weights + moved)))


def fusion_weights(config: FuserConfig) -> int:
    """Parameters of one entry's products."""
    hidden, inner = config.hidden_dim, config.intermediate_dim
    blocks = (config.num_layers - 1) * 2 * hidden * inner + 2 * hidden * hidden
    return blocks + hidden * (config.sharer_dim + 2 * config.receiver_dim + config.receiver_heads)
