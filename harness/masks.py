"""Which columns of a cache a token may attend to, by the model's own rule applied to positions.

transformers makes a mask from a rule (causal, sliding window, chunks) over column numbers. In a padded batch and where
options stand side by side a column's number is not its position. Guarantees that every layer gets the rule that its own
model asks for, evaluated on positions; nothing is read from a configuration, which may hold keys that no layer uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

GROUPED = "grouped"
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
def visible(columns: Visible | None, pack_heads: bool = False) -> Iterator[None]:
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


def added(**asked: Any) -> Tensor | None:
    """Transformers' mask for eager attention: 0 where a token may attend, the lowest number elsewhere."""
    columns = _VISIBLE.get()
    if columns is None:
        found: Tensor | None = eager_mask(**asked)
        return found
    mask = columns.under(asked.get("mask_function", causal_mask_function))
    dtype = asked.get("dtype", torch.float32)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


# Outside `visible` these are transformers' own.
MASKS: dict[str, MaskFunction] = {"sdpa": sdpa, "eager": added, GROUPED: added}
for _name, _function in MASKS.items():
    AttentionMaskInterface.register(_name, _function)
