"""What fixes a fuser: the shapes of both KV-caches, its widths, its layer map and its schedule.

Guarantees immutability and needs no torch, so that records and messages can name a fuser cheaply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class FuserConfig:
    """Everything that fixes a fuser's shape and its training schedule.

    Attributes:
        sharer_heads: KV heads of the sharer.
        sharer_head_dim: Width of one of them.
        receiver_heads: KV heads of the receiver.
        receiver_head_dim: Width of one of them.
        hidden_dim: Width of the trunk.
        intermediate_dim: Inner width of the trunk's and the projection's FFN blocks.
        num_layers: Depth as the paper's code counts it; the projection has ``num_layers - 2`` blocks.
        layer_map: Pairs (receiver layer, sharer layer), ascending in the receiver layer.
        dropout: Probability inside the FFN blocks.
        initial_temperature: Of the Gumbel gate at step 0.
        final_temperature: Of the Gumbel gate from ``anneal_steps`` on.
        anneal_steps: Optimizer steps over which the temperature falls geometrically.
    """

    sharer_heads: int
    sharer_head_dim: int
    receiver_heads: int
    receiver_head_dim: int
    hidden_dim: int
    intermediate_dim: int
    num_layers: int
    layer_map: tuple[tuple[int, int], ...]
    dropout: float = 0.1
    initial_temperature: float = 1.0
    final_temperature: float = 0.001
    anneal_steps: int = 1929

    @property
    def sharer_dim(self) -> int:
        """Width of the sharer's flattened heads."""
        return self.sharer_heads * self.sharer_head_dim

    @property
    def receiver_dim(self) -> int:
        """Width of the receiver's flattened heads."""
        return self.receiver_heads * self.receiver_head_dim


class Entry(NamedTuple):
    """What one stacked entry fuses: kind 0 is K, 1 is V."""

    kind: int
    receiver_layer: int
    sharer_layer: int
