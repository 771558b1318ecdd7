"""A KV-cache that keeps the graph: what is fused into it can be differentiated.

Guarantees the numbers of `KVBuffer` while gradients flow from later reads through what was fused, and that a forward
call may run again (gradient checkpointing) with the past it saw the first time. The price is a copy of the cache for
every forward call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.forward import Columns
from harness.kv import KVBuffer


class GraphBuffer(KVBuffer):
    """Keys and values of a batch, joined anew after every forward call and never edited once one has read them."""

    by_row = False
    _call: _Call | None = None

    def open(self, positions: Tensor, real: Tensor, branch: Tensor | None, dense: bool) -> None:
        """Declares the next columns, each `[rows, new]`; see `KVBuffer.open`."""
        self._settle()
        super().open(positions, real, branch, dense)
        self._call = _Call(self.data, self.past, self.n_layers)
        self.view = Cache(layers=[_GraphLayer(self._call, layer) for layer in range(self.n_layers)])

    def fill(self, columns: Columns, data: Tensor) -> None:
        """Takes the first columns from an earlier run, `[2, layers, rows, heads, new, head_dim]`."""
        super().open(columns.positions, columns.real, None, columns.dense)
        self.data = data

    def gather(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See `KVBuffer.gather`."""
        self._settle()
        return super().gather(kind, layer, rows, columns)

    def put(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """See `KVBuffer.put`; in place, because what is settled is a tensor of its own that no graph has saved."""
        self._settle()
        super().put(kind, layer, rows, columns, values)

    def settled(self) -> Tensor:
        """Everything so far, `[2, layers, rows, heads, columns, head_dim]`."""
        self._settle()
        assert self.data is not None
        return self.data

    def _settle(self) -> None:
        if self._call is not None:
            self.data, self._call = self._call.joined(), None


class _Call:
    """One forward call: the past it reads and the keys and values it made."""

    def __init__(self, past: Tensor | None, length: int, n_layers: int) -> None:
        self.past, self.length = past, length
        # One unbind, because the gradient of single picks would be a whole cache of zeros each.
        self.layers = None if past is None else [kind.unbind(0) for kind in past.unbind(0)]
        self.made: list[tuple[Tensor, Tensor] | None] = [None] * n_layers
        self.done = False

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if not self.done:
            self.made[layer] = keys, values
        if self.layers is None:
            return keys, values
        before = self.layers[0][layer], self.layers[1][layer]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def joined(self) -> Tensor:
        pairs = [pair for pair in self.made if pair is not None]
        made = torch.stack([torch.stack(kind) for kind in zip(*pairs, strict=True)])
        self.made, self.done = [], True
        return made if self.past is None else torch.cat([self.past, made], dim=4)


class _GraphLayer(DynamicLayer):
    """One layer's window on one forward call, in the shape that transformers expects of a cache layer."""

    def __init__(self, call: _Call, layer: int) -> None:
        super().__init__()
        self.call, self.layer = call, layer
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Returns the past and the new columns; running it again changes nothing."""
        return self.call.update(self.layer, key_states, value_states)

    def get_seq_length(self) -> int:
        """Columns before this forward call."""
        return self.call.length

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Returns (key columns, offset) for transformers' own mask."""
        new = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        return self.call.length + new, 0
