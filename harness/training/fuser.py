"""The fuser as it is trained: token by token in chunks, in mixed precision, recomputed in the backward pass if asked.

Guarantees the same random numbers with and without recomputation, because both go through the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.fusion.fuser import Fuser, FuserConfig
from harness.fusion.stack import Bank

CHUNK_BYTES = 2**30


class TrainedFuser(Fuser):
    """A fuser with float32 master weights.

    Attributes:
        recompute: computes activations again in the backward pass instead of keeping them.
        product_dtype: of the matrix products; None for that of the weights.
        compiled: compiles the arithmetic of training.
    """

    recompute: bool = False
    product_dtype: torch.dtype | None = None
    compiled: bool = False

    def __init__(
        self,
        config: FuserConfig,
        *,
        recompute: bool = False,
        product_dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(config)
        self.recompute, self.product_dtype, self.compiled = recompute, product_dtype, compiled

    def forward(self, sharer: Tensor, receiver: Tensor, entries: Sequence[int] | Tensor | None = None) -> Tensor:
        """See `Fuser.forward`; in training one token dimension, ``[entries, tokens, width]``."""
        if not self.training:
            return super().forward(sharer, receiver, entries)
        step = self.tokens_per_chunk(receiver.shape[0], CHUNK_BYTES)
        with torch.autocast(receiver.device.type, self.product_dtype, enabled=self.product_dtype is not None):
            parts = [
                self._chunk(theirs, ours, entries)
                for theirs, ours in zip(sharer.split(step, 1), receiver.split(step, 1), strict=True)
            ]
        return torch.cat(parts, dim=1)

    def _added(self, bank: Bank, sharer: Tensor, receiver: Tensor, chosen: tuple[int, ...] | None) -> Tensor:
        usual = super()._added
        return (self._compiled if self.compiled and self.training else usual)(bank, sharer, receiver, chosen)

    @cached_property
    def _compiled(self) -> Callable[..., Tensor]:
        return torch.compile(super()._added, dynamic=True)

    def _chunk(self, sharer: Tensor, receiver: Tensor, entries: Sequence[int] | Tensor | None) -> Tensor:
        if not self.recompute:
            return super().forward(sharer, receiver, entries)
        # Whoever called may add to `receiver` in place before it is read again.
        added: Tensor = checkpoint(super().forward, sharer, receiver.clone(), entries, use_reentrant=False)
        return added
