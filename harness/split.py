"""A KV-cache whose heads are split over processes, for a model every layer of which is (tensor parallelism).

Guarantees that a fuser sees what it would see in one process: every process gathers all heads of the tokens that are
fused, computes the same, and stores its own heads of it. Only fused tokens ever travel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from harness.kv import KVBuffer


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
