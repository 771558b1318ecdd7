"""How a fuser computes in training: token by token in chunks, in mixed precision, recomputed in the backward pass.

Guarantees the same random numbers with and without recomputation, because both go through the same chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.fusion.interface import FuserModule

CHUNK_BYTES = 2**30


@dataclass(frozen=True)
class Computing:
    """How the delta of a fuser with float32 master weights is computed while it is trained.

    Attributes:
        recompute: computes activations again in the backward pass instead of keeping them.
        product_dtype: of the matrix products; None for that of the weights.
    """

    recompute: bool = False
    product_dtype: torch.dtype | None = None


def trained_delta(
    fuser: FuserModule, sharer: Tensor, receiver: Tensor, entries: Sequence[int], how: Computing
) -> Tensor:
    """Returns `fuser(sharer, receiver, entries)`, see `FuserModule.forward`, with one token dimension."""
    if not fuser.training:
        evaluated: Tensor = fuser(sharer, receiver, entries)
        return evaluated
    step = fuser.tokens_per_chunk(receiver.shape[0], CHUNK_BYTES)
    with torch.autocast(receiver.device.type, how.product_dtype, enabled=how.product_dtype is not None):
        parts = [
            _chunk(fuser, theirs, ours, entries, how.recompute)
            for theirs, ours in zip(sharer.split(step, 1), receiver.split(step, 1), strict=True)
        ]
    return torch.cat(parts, dim=1)


def _chunk(fuser: FuserModule, sharer: Tensor, receiver: Tensor, entries: Sequence[int], recompute: bool) -> Tensor:
    if not recompute:
        return fuser(sharer, receiver, entries)  # type: ignore[no-any-return]
    # The caller may add to `receiver` in place before it is read again.
    added: Tensor = checkpoint(fuser, sharer, receiver.clone(), entries, use_reentrant=False)
    return added
