"""A KV-cache whose layers lie where the model's layers lie, for a model larger than one device.

Guarantees the numbers of `KVBuffer`: every layer writes and reads its keys and values on its own device, and what a
fuser asks for is brought to the device that the model's inputs enter at. Only fused tokens ever move. The price is an
operation a layer, where one device needs a single one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from harness.kv import KVBuffer


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
