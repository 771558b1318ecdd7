"""Which columns of a cache a token may attend to, for all layers or layer by layer.

transformers makes one mask for all layers of a kind, from a rule (causal, sliding window, chunks) over column numbers.
In a padded batch, and where options stand side by side, the number of a column is not its position. Guarantees that
every layer gets the rule that its own model asks for, evaluated on positions; nothing is read from a configuration,
which may hold keys that no layer uses.

Chosen layers can be kept from columns that the other layers see. Such a layer computes what it would without these
columns, at equal positions; an architecture that hands no mask to the layer is refused.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

from harness.errors import UserError
from harness.models.grouped_attention import GROUPED

MaskFunction = Callable[..., "Tensor | None"]


@dataclass(frozen=True)
class Visible:
    """What the newest columns of a batch may attend to, before the model's own rule.

    Attributes:
        queries: positions of the newest columns, `[rows, new]`.
        keys: positions of all columns, `[rows, columns]`.
        allowed: False for pads and for the columns of other options, `[rows, new, columns]`.
    """

    queries: Tensor
    keys: Tensor
    allowed: Tensor

    def under(self, rule: Callable[..., Tensor]) -> Tensor:
        """Returns the boolean mask `[rows, 1, new, columns]` of a rule of transformers, evaluated on positions.

        A column that may attend to nothing attends to itself: its softmax would be NaN otherwise.
        """
        rows, new, total = self.allowed.shape
        row = torch.arange(rows, device=self.keys.device)[:, None, None, None]
        by_rule = rule(row, torch.zeros_like(row[:1]), self.queries[:, None, :, None], self.keys[:, None, None, :])
        seen = by_rule & self.allowed[:, None]
        own = torch.arange(total, device=seen.device) == torch.arange(total - new, total, device=seen.device)[:, None]
        return seen | (own & ~seen.any(-1, keepdim=True))


_VISIBLE: ContextVar[Visible | None] = ContextVar("visible", default=None)

_PACK_HEADS: ContextVar[bool] = ContextVar("pack_heads", default=False)


@contextmanager
def masking_by(columns: Visible | None, pack_heads: bool = False) -> Iterator[None]:
    """While it is open, the models of this thread mask by `columns`.

    Args:
        columns: what may be attended to; None leaves transformers' masks as they are.
        pack_heads: hand plain causal attention of a single token a mask that hides nothing. With a mask, transformers
            lets the query heads of one KV head share a product; without, the CPU's kernel for grouped heads takes
            five times as long in bfloat16.
    """
    tokens = _VISIBLE.set(columns), _PACK_HEADS.set(pack_heads)
    try:
        yield
    finally:
        _VISIBLE.reset(tokens[0])
        _PACK_HEADS.reset(tokens[1])


def sdpa(**asked: Any) -> Tensor | None:
    """Transformers' mask for sdpa, `[rows, 1, new, columns]`: True where a token may attend."""
    columns, rule = _VISIBLE.get(), asked.get("mask_function", causal_mask_function)
    if columns is not None:
        return columns.under(rule)
    if _PACK_HEADS.get() and rule is causal_mask_function and asked.get("attention_mask") is None:
        everything = torch.ones(1, dtype=torch.bool, device=asked["device"])
        return everything.expand(asked["batch_size"], 1, 1, asked["kv_length"])
    found: Tensor | None = sdpa_mask(**asked)
    return found


def additive_mask(**asked: Any) -> Tensor | None:
    """Transformers' mask for eager attention: 0 where a token may attend, the lowest number elsewhere."""
    columns = _VISIBLE.get()
    if columns is None:
        found: Tensor | None = eager_mask(**asked)
        return found
    mask = columns.under(asked.get("mask_function", causal_mask_function))
    dtype = asked.get("dtype", torch.float32)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


# Outside `masking_by` these are transformers' own.
MASKS: dict[str, MaskFunction] = {"sdpa": sdpa, "eager": additive_mask, GROUPED: additive_mask}

for _name, _function in MASKS.items():
    AttentionMaskInterface.register(_name, _function)


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
