"""Reading a batch row by row and option by option, for a model whose numbers would depend on what stands beside.

Some models count columns where others count positions (ALiBi, local attention), or choose one factor for a whole batch.
Guarantees that such a model reads every row exactly as if it were alone: without pads, without other options, from a
cache that holds this row's tokens and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.errors import UserError
from harness.inference.kv_cache import KVBuffer

Entries = list[tuple[Tensor, Tensor]]


class Alone(NamedTuple):
    """The newest columns of one row and one option: `columns` among the newest, behind the columns `past`."""

    row: int
    past: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Reader:
    """How one row is read.

    Attributes:
        name: the model's, for a refusal.
        make: an empty cache of one row for so many columns.
        call: runs the model on `ids` and `positions`, `[1, new]`, and returns logits of the last `keep` columns.
    """

    name: str
    make: Callable[[int], KVBuffer]
    call: Callable[[KVBuffer, Tensor, Tensor, int], Tensor | None]

    def read(self, buffer: KVBuffer, ids: Tensor, keep: int) -> Tensor | None:
        """Reads the newest columns of a batch, which `KVBuffer.open` has declared.

        Args:
            buffer: gets the K and V of the newest columns.
            ids: `[rows, new]`.
            keep: for how many of the last columns logits are wanted.

        Returns:
            `[rows, keep, vocabulary]`, zeros at pads; None when `keep` is 0.

        Raises:
            UserError: there are pads inside a prompt, which such a model cannot be made to skip, or the cache keeps the
                graph of a whole batch.
        """
        if not buffer.by_row:
            raise UserError(f"{self.name} is right only where rows are read one by one; train it with --micro_batch 1.")
        new = ids.shape[1]
        entries: list[tuple[Alone, Entries]] = []
        logits: Tensor | None = None
        for part in _parts(buffer, new):
            own, found = self._part(buffer, ids, part, min(keep, new))
            entries.append((part, own))
            if found is not None:
                logits = found.new_zeros(buffer.rows, keep, found.shape[-1]) if logits is None else logits
                at = part.columns - (new - keep)
                wanted = at >= 0
                logits[part.row, at[wanted]] = found[0, -len(at) :][wanted[-found.shape[1] :]]
        _store(buffer, entries, new)
        return logits

    def _part(self, buffer: KVBuffer, ids: Tensor, part: Alone, keep: int) -> tuple[Entries, Tensor | None]:
        newest = part.columns + buffer.past
        positions = buffer.positions[part.row, torch.cat([part.past, newest])]
        if not torch.equal(positions, torch.arange(len(positions), device=positions.device)):
            raise UserError(
                f"{self.name} counts columns and not positions, so it cannot read prompts with pads inside, which "
                "alignment inserts; use a pair of one vocabulary, or another model."
            )
        n = len(part.past)
        own = self.make(len(positions))
        if n:
            self._copy_past(buffer, own, part)
        new_ids = ids[part.row, part.columns][None]
        logits = self.call(own, new_ids, positions[None, n:], min(keep, len(part.columns)))
        return [
            (_entry(own, 0, layer)[:, :, n:], _entry(own, 1, layer)[:, :, n:]) for layer in range(own.n_layers)
        ], logits

    def _copy_past(self, buffer: KVBuffer, own: KVBuffer, part: Alone) -> None:
        real = torch.ones(1, len(part.past), dtype=torch.bool, device=buffer.device)
        own.open(buffer.positions[part.row, part.past][None], real, None, dense=True)
        for layer in range(buffer.n_layers):
            keys, values = (_entry(buffer, kind, layer)[part.row : part.row + 1][:, :, part.past] for kind in (0, 1))
            own.write(layer, keys, values)


def _parts(buffer: KVBuffer, new: int) -> Iterator[Alone]:
    """Every row, and every option of it, that has tokens among the newest columns."""
    real = buffer.real[:, : buffer.length]
    branch = buffer.branch[:, : buffer.length]
    for row in range(buffer.rows):
        past = (real[row, : buffer.past] & (branch[row, : buffer.past] == 0)).nonzero()[:, 0]
        newest = torch.where(real[row, buffer.past :], branch[row, buffer.past :], -1)
        for option in sorted(set(newest.tolist()) - {-1}):
            yield Alone(row, past, (newest == option).nonzero()[:, 0])


def _entry(buffer: KVBuffer, kind: int, layer: int) -> Tensor:
    entry = buffer.entry(kind, layer)
    assert entry is not None
    return entry


def _store(buffer: KVBuffer, entries: list[tuple[Alone, Entries]], new: int) -> None:
    for layer in range(buffer.n_layers):
        sample = entries[0][1][layer]
        stored: list[Any] = [one.new_zeros(buffer.rows, one.shape[1], new, one.shape[3]) for one in sample]
        for part, own in entries:
            for kind in (0, 1):
                stored[kind][part.row][:, part.columns] = own[layer][kind][0]
        buffer.write(layer, stored[0], stored[1])
