"""Whether a model's cache is what this harness stores: one key and one value a token, layer and head.

Guarantees that it is asked of the model by one short forward call, never of its configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.cache_kinds import unusual_cache
from harness.models import LM


class _Recorder(DynamicLayer):
    """A cache layer that remembers the shapes of what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Returns what it is given."""
        self.stored.append((_shape(key_states), _shape(value_states)))
        return key_states, value_states


def _shape(entry: Tensor) -> tuple[int, ...]:
    return (entry.shape[1], entry.shape[3])


@dataclass(frozen=True)
class Structure:
    """What one forward call over a short row shows.

    Attributes:
        foreign: why the cache cannot be stored; None where it can.
        logits: [tokens, vocabulary], as transformers alone computes them; None where `foreign` says why not.
    """

    foreign: str | None
    logits: Tensor | None = None


def structure(lm: LM, row: Sequence[int] = (1, 2, 3, 4, 5)) -> Structure:
    """Reads one row of token ids and looks at what is stored.

    Args:
        lm: reads the row without anything of this harness.
        row: a few token ids.
    """
    unusual = unusual_cache(lm.config)
    if unusual is not None:
        return Structure(unusual)
    layers = [_Recorder() for _ in range(lm.n_layers)]
    ids = torch.tensor([list(row)], device=lm.device)
    arguments = {"input_ids": ids, lm.cache_argument: Cache(layers=layers), "use_cache": True}
    try:
        with torch.inference_mode():
            logits: Tensor = lm.model(**arguments).logits[0].float()
    except Exception as error:  # a model that asks its cache for more raises whatever comes of it
        return Structure(f"its forward call does not go with a cache of plain keys and values ({_short(error)})")
    foreign = _told([layer.stored for layer in layers])
    return Structure(foreign, logits if foreign is None else None)


def _told(stored: list[list[tuple[tuple[int, ...], tuple[int, ...]]]]) -> str | None:
    counts = Counter(len(one) for one in stored)
    if set(counts) == {0}:
        return "it stores no keys and values"
    if max(counts) > 1:
        return f"it runs layers more than once (one of them {max(counts)} times a token)"
    if 0 in counts:
        return f"only {counts[1]} of its {len(stored)} layers have keys and values of their own"
    shapes = {one[0] for one in stored}
    uneven = next((pair for pair in shapes if pair[0] != pair[1]), None)
    if uneven is not None:
        (heads, width), (value_heads, value_width) = uneven
        return (
            f"its keys ({heads} x {width}) and values ({value_heads} x {value_width}) have different shapes, as in "
            "multi-head latent attention"
        )
    if len(shapes) > 1:
        widths = ", ".join(f"{heads} x {width}" for (heads, width), _ in sorted(shapes))
        return f"its layers have different widths (KV heads x head_dim: {widths})"
    return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
