"""Which sharer layer each receiver layer reads, and whether a fuser fits two models.

Guarantees one pair (receiver layer, sharer layer) for every receiver layer, in ascending order (C2C, section 3.3.2,
"layer alignment"), and that a mismatch between a fuser and the shapes of two KV-caches is named (layer, dimension,
expected, found) before any model runs.
"""

from __future__ import annotations

from typing import Any

from harness.errors import UserError
from harness.fusers.c2c import FuserConfig
from harness.fusers.interface import PairConfig
from harness.models.lm import KVShape

LayerMap = tuple[tuple[int, int], ...]


def last_aligned(receiver_layers: int, sharer_layers: int) -> LayerMap:
    """Pairs the last layers, the ones before them, and so on; receiver layers left over read layer 0."""
    ahead = sharer_layers - receiver_layers
    return tuple((layer, max(layer + ahead, 0)) for layer in range(receiver_layers))


def k_nearest(receiver_layers: int, sharer_layers: int) -> LayerMap:
    """Pairs layers of nearest relative depth (k = 1); of two that are equally near, the lower one."""

    def distance(layer: int, source: int) -> int:
        return abs(layer * max(sharer_layers - 1, 1) - source * max(receiver_layers - 1, 1))

    return tuple(
        (layer, min(range(sharer_layers), key=lambda source: distance(layer, source)))
        for layer in range(receiver_layers)
    )


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
