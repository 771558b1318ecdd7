"""Masks by layer: columns of a cache that chosen layers may not attend to, although the other layers do.

transformers makes one mask for all layers of a kind. Guarantees that a layer which is kept from columns computes what
it would without them, positions being equal, or a refusal where the architecture hands no mask to that layer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.errors import UserError


@dataclass(frozen=True)
class LayerMask:
    """Columns that are hidden from some layers, in prefill, scoring and decoding alike.

    Attributes:
        hidden: layer -> `[rows, columns]`, True for a column of the past that the layer may not attend to. Columns
            behind these, and layers without an entry, follow the model's own rule alone.

    Usage:
        mask = LayerMask.prefix(layers=(0, 1), columns=real_prefix)  # [rows, prefix]
        logits = extend(lm, buffer, columns, counters, keep=1, layer_mask=mask)
    """

    hidden: Mapping[int, Tensor]

    @staticmethod
    def prefix(layers: frozenset[int] | tuple[int, ...], columns: Tensor) -> LayerMask:
        """Hides the same columns, `[rows, columns]` as booleans, from each of the layers."""
        return LayerMask(dict.fromkeys(sorted(layers), columns))

    def keep_rows(self, rows: Tensor) -> LayerMask:
        """Returns the mask of the rows `[kept]` alone."""
        kept = {id(columns): columns[rows.to(columns.device)] for columns in self.hidden.values()}
        return LayerMask({layer: kept[id(columns)] for layer, columns in self.hidden.items()})


@dataclass
class _Applied:
    """The layer mask of a running forward call.

    Attributes:
        past: columns that were in the cache before the call.
        made: masks that were made for it; layers with equal columns share one.
        reached: layers that have used their mask.
    """

    mask: LayerMask
    past: int
    made: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)

    def of(self, layer: int, mask: Tensor) -> Tensor:
        """Returns a layer's mask, made of the one for all layers, `[rows, 1, new, columns]`, and its hidden columns."""
        columns = self.mask.hidden[layer]
        self.reached.add(layer)
        key = id(columns), id(mask)
        if key not in self.made:
            self.made[key] = mask, self._without(mask, columns[:, : self.past])
        return self.made[key][1]

    def _without(self, mask: Tensor, columns: Tensor) -> Tensor:
        behind = mask.shape[-1] - columns.shape[1]
        hidden = nn.functional.pad(columns, (0, behind)).to(mask.device)[:, None, None]
        return mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


_APPLIED: ContextVar[_Applied | None] = ContextVar("applied", default=None)
_SITES: WeakKeyDictionary[nn.Module, dict[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def masked_by_layer(model: nn.Module, mask: LayerMask | None, past: int, name: str) -> Iterator[None]:
    """While it is open, the model's layers read by `mask` in this thread; None changes nothing.

    Args:
        model: whose attention modules are given their masks.
        mask: what is hidden from which layer.
        past: columns in the cache before the call; the newest are never hidden.
        name: the model's, for a refusal.

    Raises:
        UserError: a layer of the mask is not there, or its attention gets no mask from the model.
    """
    if mask is None:
        yield
        return
    sites = _sites(model)
    applied = _Applied(mask, past)
    hooks = [
        module.register_forward_pre_hook(functools.partial(_hide, layer), with_kwargs=True)
        for layer in mask.hidden
        for module in sites.get(layer, ())
    ]
    token = _APPLIED.set(applied)
    try:
        yield
    finally:
        _APPLIED.reset(token)
        for hook in hooks:
            hook.remove()
    _check_reached(applied, name)


def _check_reached(applied: _Applied, name: str) -> None:
    missed = sorted(set(applied.mask.hidden) - applied.reached)
    if missed:
        raise UserError(
            f"{name} hands no attention mask to layer {missed[0]}, so columns cannot be hidden from it; choose other "
            "layers or another model."
        )


def _hide(layer: int, _: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    applied, mask = _APPLIED.get(), arguments.get("attention_mask")
    if applied is None or layer not in applied.mask.hidden or not isinstance(mask, Tensor):
        return None  # another thread's call of the same model
    return inputs, {**arguments, "attention_mask": applied.of(layer, mask)}


def _sites(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Attention modules by layer."""
    if model not in _SITES:
        found: dict[int, list[nn.Module]] = {}
        for module in model.modules():
            layer = getattr(module, "layer_idx", None)
            if isinstance(layer, int) and _takes_mask(cast("Any", type(module))):
                found.setdefault(layer, []).append(module)
        _SITES[model] = found
    return _SITES[model]


@functools.cache
def _takes_mask(kind: type[nn.Module]) -> bool:
    return "attention_mask" in inspect.signature(kind.forward).parameters
