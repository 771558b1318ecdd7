"""The KV-cache of everything that runs after a prompt: on one device, per layer, or with its heads split.

Prefill, fusion, scoring and decoding share one cache. Every column knows its position and whether it is a real token,
so attention depends on positions and never on padding. `KVBuffer` keeps keys and values of all layers in one
allocation: a fuser gathers and scatters over layers at once and decoding appends in place, at the price that all layers
share one shape.

Two variants give the same numbers for a model on several devices. In a `SpreadBuffer` every layer keeps its keys and
values on its own device, and fused tokens are brought to the device of the model's inputs, at one operation a layer
instead of one for all. In a `SplitBuffer` (tensor parallelism) every process gathers all heads of the fused tokens,
computes the same, and stores its own heads. Only fused tokens ever move.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from transformers.cache_utils import Cache, DynamicLayer

_GROWTH = 1.5

_SPARE = 32


class KVBuffer:
    """Keys and values of a batch, with what is known of every column.

    Attributes:
        data: `[2 (K, V), layers, rows, heads, capacity, head_dim]`; allocated at the first write.
        positions: `[rows, capacity]`, position ids.
        real: `[rows, capacity]`, False where nobody may look.
        branch: `[rows, capacity]`, 0 for the common past; columns of another branch see only their own and 0.
        length: columns in use, the same for every row; `past` of them were there before the newest `open`.
        dense: no column of any row is a pad.
        by_row: rows may be read apart and stored together.
    """

    by_row = True

    def __init__(self, rows: int, n_layers: int, device: torch.device, capacity: int) -> None:
        self.rows, self.n_layers, self.device = rows, n_layers, device
        self.data: Tensor | None = None
        self.past, self.length, self.dense, self.branched = 0, 0, True, False
        self.positions = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self.real = torch.zeros(rows, capacity, dtype=torch.bool, device=device)
        self.branch = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self.view = Cache(layers=[_BufferLayer(self, layer) for layer in range(n_layers)])

    @property
    def capacity(self) -> int:
        """Columns that fit without a new allocation."""
        return self.positions.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values in use."""
        return 0 if self.data is None else self.data[..., : self.length, :].numel() * self.data.element_size()

    def open(self, positions: Tensor, real: Tensor, branch: Tensor | None, dense: bool) -> None:
        """Declares the next columns, each `[rows, new]`; the model then writes their K and V."""
        start, stop = self.length, self.length + positions.shape[1]
        self.reserve(stop)
        self.positions[:, start:stop] = positions
        self.real[:, start:stop] = real
        self.branch[:, start:stop] = 0 if branch is None else branch
        self.past, self.length = start, stop
        self.dense = self.dense and dense
        self.branched = branch is not None

    def crop(self, length: int, dense: bool) -> None:
        """Forgets every column from `length` on."""
        self.length, self.dense, self.branched = length, dense, False

    def reveal(self, owned: Tensor, dense: bool) -> None:
        """Makes the columns of `owned [rows, columns so far]` visible to whatever comes next."""
        self.real[:, : self.length] = owned
        self.dense = dense

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores `[rows, heads, new, head_dim]` in the newest columns and returns all columns so far."""
        if self.data is None:
            shape = (2, self.n_layers, keys.shape[0], keys.shape[1], self.capacity, keys.shape[3])
            self.data = torch.empty(shape, dtype=keys.dtype, device=keys.device)
        start = self.length - keys.shape[2]
        self.data[0, layer, :, :, start : self.length] = keys
        self.data[1, layer, :, :, start : self.length] = values
        return self.data[0, layer, :, :, : self.length], self.data[1, layer, :, :, : self.length]

    def reserve(self, columns: int) -> None:
        """Makes room for `columns` in all; a rare copy instead of one at every decoded token."""
        if columns <= self.capacity:
            return
        more = max(columns + _SPARE, int(self.capacity * _GROWTH)) - self.capacity
        pad = torch.nn.functional.pad
        self.positions, self.real = pad(self.positions, (0, more)), pad(self.real, (0, more))
        self.branch = pad(self.branch, (0, more))
        if self.data is not None:
            grown = self.data.new_empty(*self.data.shape[:4], self.capacity, self.data.shape[5])
            grown[..., : self.length, :] = self.data[..., : self.length, :]
            self.data = grown

    def keep_rows(self, rows: Tensor) -> None:
        """Drops every row that is not in `rows` (indices `[kept]`)."""
        self.rows = rows.shape[0]
        self.positions, self.real, self.branch = self.positions[rows], self.real[rows], self.branch[rows]
        if self.data is not None:
            self.data = self.data[:, :, rows]

    def copied(self) -> KVBuffer:
        """Returns the same columns in memory of their own."""
        made = copy.copy(self)
        made.view = Cache(layers=[_BufferLayer(made, layer) for layer in range(self.n_layers)])
        made.keep_rows(torch.arange(self.rows, device=self.device))
        return made

    def entry(self, kind: int, layer: int) -> Tensor | None:
        """One layer's K (0) or V (1), `[rows, heads, columns, head_dim]` on `device`; None before the first write."""
        return None if self.data is None else self.data[kind, layer, :, :, : self.length]

    def gather(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns entries (kind, layer), each `[entries]`, of single tokens: `[entries, tokens, heads * head_dim]`."""
        assert self.data is not None
        picked: Tensor = self.data[_entry_index(kind, layer, rows, columns)]
        return picked.flatten(2)

    def put(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Stores `values [entries, tokens, heads * head_dim]` where `gather` reads them for the same indices."""
        assert self.data is not None
        shaped = values.unflatten(2, (self.data.shape[3], self.data.shape[5]))
        self.data[_entry_index(kind, layer, rows, columns)] = shaped.to(self.data.dtype)

    def add(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, delta: Tensor) -> None:
        """Adds `delta [entries, tokens, heads * head_dim]` in place to what `gather` returns for the same indices."""
        self.put(kind, layer, rows, columns, self.gather(kind, layer, rows, columns).add_(delta))


def _entry_index(kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> tuple[Any, ...]:
    return (kind[:, None], layer[:, None], rows[None], slice(None), columns[None])


class _BufferLayer(DynamicLayer):
    """One layer's window on a `KVBuffer`, in the shape that transformers expects of a cache layer."""

    def __init__(self, buffer: KVBuffer, layer: int) -> None:
        super().__init__()
        # Weak, because the buffer holds its layers: a cycle would keep the cache until the collector runs.
        self._buffer, self.layer = weakref.ref(buffer), layer
        self.is_initialized = True

    @property
    def buffer(self) -> KVBuffer:
        """The buffer, which whoever runs the model holds."""
        buffer = self._buffer()
        assert buffer is not None
        return buffer

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Stores the new columns; see `KVBuffer.write`."""
        return self.buffer.write(self.layer, key_states, value_states)

    def get_seq_length(self) -> int:
        """Columns before the running forward call: those being written were declared by `KVBuffer.open`."""
        return self.buffer.past

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Returns (key columns, offset) for transformers' own mask."""
        new = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        return self.buffer.past + new, 0


class SpreadBuffer(KVBuffer):
    """Keys and values of a batch, an allocation a layer.

    Attributes:
        parts: by layer, `[2 (K, V), rows, heads, capacity, head_dim]` on its device; None before its first write.
    """

    def __init__(self, rows: int, n_layers: int, device: torch.device, capacity: int) -> None:
        super().__init__(rows, n_layers, device, capacity)
        self.parts: list[Tensor | None] = [None] * n_layers

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values in use."""
        return sum(part[..., : self.length, :].numel() * part.element_size() for part in self._made())

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVBuffer.write`."""
        part = self.parts[layer]
        if part is None:
            part = keys.new_empty(2, *keys.shape[:2], self.capacity, keys.shape[3])
            self.parts[layer] = part
        start = self.length - keys.shape[2]
        part[0, :, :, start : self.length] = keys
        part[1, :, :, start : self.length] = values
        return part[0, :, :, : self.length], part[1, :, :, : self.length]

    def reserve(self, columns: int) -> None:
        """See `KVBuffer.reserve`."""
        before = self.capacity
        super().reserve(columns)
        more = self.capacity - before
        if more:
            self._replace(lambda part: torch.nn.functional.pad(part, (0, 0, 0, more)))

    def keep_rows(self, rows: Tensor) -> None:
        """See `KVBuffer.keep_rows`."""
        super().keep_rows(rows)
        self._replace(lambda part: part[:, rows.to(part.device)])

    def entry(self, kind: int, layer: int) -> Tensor | None:
        """See `KVBuffer.entry`."""
        part = self.parts[layer]
        return None if part is None else part[kind, :, :, : self.length].to(self.device)

    def gather(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See `KVBuffer.gather`."""
        picked = [part[index].to(self.device) for part, index in self._entries(kind, layer, rows, columns)]
        return torch.stack(picked).flatten(2)

    def put(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """See `KVBuffer.put`."""
        for value, (part, index) in zip(values, self._entries(kind, layer, rows, columns), strict=True):
            part[index] = value.unflatten(1, (part.shape[2], part.shape[4])).to(part.device, part.dtype)

    def _entries(
        self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor
    ) -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
        """The layer's part of every entry, with the index of the tokens in it."""
        moved: dict[torch.device, tuple[Tensor, Tensor]] = {}
        for which, number in zip(kind.tolist(), layer.tolist(), strict=True):
            part = self.parts[number]
            assert part is not None
            at = moved.setdefault(part.device, (rows.to(part.device), columns.to(part.device)))
            yield part, (which, at[0], slice(None), at[1])

    def _made(self) -> list[Tensor]:
        return [part for part in self.parts if part is not None]

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        self.parts = [None if part is None else change(part) for part in self.parts]


class SplitBuffer(KVBuffer):
    """This process's heads of the keys and values of a batch.

    Attributes:
        group: the processes that hold the model together, in the order of the heads.
    """

    def __init__(self, rows: int, n_layers: int, device: torch.device, capacity: int, group: Any) -> None:
        super().__init__(rows, n_layers, device, capacity)
        self.group = group

    def gather(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See `KVBuffer.gather`; the heads of all processes."""
        own = super().gather(kind, layer, rows, columns).contiguous()
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather(parts, own, group=self.group)
        return torch.cat(parts, dim=2)

    def put(self, kind: Tensor, layer: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """See `KVBuffer.put`; of the heads of all processes each stores its own."""
        parts = values.chunk(distributed.get_world_size(self.group), dim=2)
        super().put(kind, layer, rows, columns, parts[distributed.get_rank(self.group)])
