"""What fixes a fuser: the shapes of both KV-caches, its widths, its layer map and its schedule.

Guarantees that a config which exists is a possible one, whoever made it, and needs no torch, so that
records and messages can name a fuser cheaply.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

Width = Annotated[int, Field(ge=1, le=1 << 16)]
Layer = Annotated[int, Field(ge=0, lt=1024)]
Temperature = Annotated[float, Field(gt=0, le=1e6)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class PairConfig:
    """What every form of fuser knows of its pair of caches; a form's own configuration extends it.

    Attributes:
        sharer_heads: KV heads of the sharer.
        sharer_head_dim: Width of one of them.
        receiver_heads: KV heads of the receiver.
        receiver_head_dim: Width of one of them.
        layer_map: Pairs (receiver layer, sharer layer), ascending in the receiver layer.

    Raises:
        pydantic.ValidationError: If a value is out of range or the layer map is not ascending.
    """

    sharer_heads: Width
    sharer_head_dim: Width
    receiver_heads: Width
    receiver_head_dim: Width
    layer_map: Annotated[tuple[tuple[Layer, Layer], ...], Field(min_length=1, max_length=1024)]

    @field_validator("layer_map")
    @classmethod
    def _ascending(cls, pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        receiver = [layer for layer, _ in pairs]
        if receiver != sorted(set(receiver)):
            raise ValueError("receiver layers must ascend, each once")
        return pairs

    @property
    def sharer_dim(self) -> int:
        """Width of the sharer's flattened heads."""
        return self.sharer_heads * self.sharer_head_dim

    @property
    def receiver_dim(self) -> int:
        """Width of the receiver's flattened heads."""
        return self.receiver_heads * self.receiver_head_dim


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class FuserConfig(PairConfig):
    """Everything that fixes a C2C fuser's shape and its training schedule.

    Attributes:
        hidden_dim: Width of the trunk.
        intermediate_dim: Inner width of the trunk's and the projection's FFN blocks.
        num_layers: Depth as the paper's code counts it; at least 3; the projection has ``num_layers - 2`` blocks.
        dropout: Probability inside the FFN blocks.
        initial_temperature: Of the Gumbel gate at step 0.
        final_temperature: Of the Gumbel gate from ``anneal_steps`` on.
        anneal_steps: Optimizer steps over which the temperature falls geometrically.

    Raises:
        pydantic.ValidationError: If a value is out of range or the layer map is not ascending.
    """

    hidden_dim: Width
    intermediate_dim: Width
    num_layers: Annotated[int, Field(ge=3, le=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    initial_temperature: Temperature = 1.0
    final_temperature: Temperature = 0.001
    anneal_steps: Annotated[int, Field(ge=1)] = 1929


class Entry(NamedTuple):
    """What one stacked entry fuses: kind 0 is K, 1 is V."""

    kind: int
    receiver_layer: int
    sharer_layer: int
