"""Reading and writing single tokens of a cache."""

from __future__ import annotations

import torch

from harness.inference.kv_cache import KVBuffer

KIND, LAYER = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
ROWS, COLUMNS = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2])


def filled() -> KVBuffer:
    buffer = KVBuffer(2, 2, torch.device("cpu"), capacity=4)
    buffer.data = torch.arange(2 * 2 * 2 * 3 * 4 * 5, dtype=torch.float32).view(2, 2, 2, 3, 4, 5)
    return buffer


def test_what_is_put_is_what_is_gathered_and_nothing_else_changes() -> None:
    buffer = filled()
    values = -torch.arange(3 * 3 * 15, dtype=torch.float32).view(3, 3, 15) - 1
    buffer.put(KIND, LAYER, ROWS, COLUMNS, values)
    assert torch.equal(buffer.gather(KIND, LAYER, ROWS, COLUMNS), values)
    assert buffer.data is not None
    assert int((buffer.data != filled().data).sum()) == values.numel()


def test_adding_is_putting_the_sum() -> None:
    added, put = filled(), filled()
    delta = torch.full((3, 3, 15), 0.5)
    added.add(KIND, LAYER, ROWS, COLUMNS, delta)
    put.put(KIND, LAYER, ROWS, COLUMNS, put.gather(KIND, LAYER, ROWS, COLUMNS) + delta)
    assert added.data is not None
    assert put.data is not None
    assert torch.equal(added.data, put.data)
