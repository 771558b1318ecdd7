"""Which sharer layer each receiver layer reads (C2C, section 3.3.2, "layer alignment").

Guarantees pairs (receiver layer, sharer layer) for every receiver layer, in ascending order.
"""

from __future__ import annotations

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
