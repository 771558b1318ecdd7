"""The shape of a model's KV-cache, as far as a fuser cares, and whether a fuser fits two models.

Guarantees that a mismatch is named (layer, dimension, expected, found) before any model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.fusion.config import FuserConfig, PairConfig
from harness.fusion.layers import last_aligned


@dataclass(frozen=True)
class KVShape:
    """Layers, KV heads and width of a head of one model's cache."""

    layers: int
    heads: int
    head_dim: int


def kv_shape(config: Any) -> KVShape:
    """Reads the shape from a transformers config; of a multimodal one, from its text part.

    Raises:
        UserError: If the config does not say.
    """
    text = getattr(config, "text_config", None) or config
    # Where a config lets its layers differ, only a layer's own tells; that they are of one shape is checked at load.
    layer = text.per_layer_config[0] if getattr(text, "is_heterogeneous", False) else text
    heads = _number(layer, "num_attention_heads")
    kv_heads = getattr(layer, "num_key_value_heads", None) or heads
    head_dim = getattr(layer, "head_dim", None) or _number(layer, "hidden_size") // heads
    return KVShape(_number(text, "num_hidden_layers"), int(kv_heads), int(head_dim))


def pair_shapes(
    receiver: KVShape, sharer: KVShape, layer_map: tuple[tuple[int, int], ...] | None = None
) -> dict[str, Any]:
    """Returns the fields of `PairConfig` for a fuser between two caches; None aligns the layers from the last down."""
    return {
        "sharer_heads": sharer.heads,
        "sharer_head_dim": sharer.head_dim,
        "receiver_heads": receiver.heads,
        "receiver_head_dim": receiver.head_dim,
        "layer_map": last_aligned(receiver.layers, sharer.layers) if layer_map is None else layer_map,
    }


def config_for(
    receiver: KVShape, sharer: KVShape, layer_map: tuple[tuple[int, int], ...] | None = None, **widths: Any
) -> FuserConfig:
    """Builds the config of a C2C fuser between two caches.

    Args:
        receiver: shape of the cache that is changed.
        sharer: shape of the cache that is read.
        layer_map: see `FuserConfig`; None aligns the layers from the last one down.
        **widths: the other fields of `FuserConfig`.
    """
    return FuserConfig(**pair_shapes(receiver, sharer, layer_map), **widths)


def _number(config: Any, name: str) -> int:
    found = getattr(config, name, None)
    if not isinstance(found, int) or found < 1:
        raise UserError(f"The model's config has {name} = {found!r}; a fuser needs a positive number there.")
    return found


def check_shapes(config: PairConfig, receiver: KVShape, sharer: KVShape) -> None:
    """Checks that a fuser of this config fits a receiver and a sharer.

    Raises:
        UserError: Names the layer and dimension that do not fit, what is expected and what was found.
    """
    last_receiver, last_sharer = (max(pair[side] for pair in config.layer_map) for side in (0, 1))
    _fits("receiver", (config.receiver_heads, config.receiver_head_dim), receiver, last_receiver)
    _fits("sharer", (config.sharer_heads, config.sharer_head_dim), sharer, last_sharer)


def _fits(role: str, expected: tuple[int, int], found: KVShape, last_layer: int) -> None:
    for name, want, have in zip(("KV heads", "head_dim"), expected, (found.heads, found.head_dim), strict=True):
        if want != have:
            raise UserError(
                f"The fuser does not fit this {role}: in layer 0 it expects {name} {want}, but the {role} has {have}; "
                "use the fuser that was trained for this pair."
            )
    if last_layer >= found.layers:
        raise UserError(
            f"The fuser does not fit this {role}: it uses layer {last_layer}, so it expects at least {last_layer + 1} "
            f"layers, but the {role} has {found.layers}; use the fuser that was trained for this pair."
        )
