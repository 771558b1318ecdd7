"""The fuser's arithmetic over stacked weights: the first dimension is the entry, in weights and in values.

Guarantees one batched product a linear layer whatever the number of entries; the price is that all
entries must share their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.fusion.config import FuserConfig

NORM_EPS = 1e-6

Bank = Mapping[str, Tensor]


def entry_shapes(config: FuserConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of a single entry (one kind of one layer)."""
    hidden, inner = config.hidden_dim, config.intermediate_dim
    shapes: dict[str, tuple[int, ...]] = {"gate_logit": ()}
    shapes |= {"in_weight": (hidden, config.sharer_dim + config.receiver_dim), "in_bias": (hidden,)}
    shapes |= _block_shapes("mlp1", hidden, inner)
    shapes |= _block_shapes("scalar_mlp2", hidden, hidden)
    shapes |= {"scalar_head_weight": (config.receiver_heads, hidden), "scalar_head_bias": (config.receiver_heads,)}
    for depth in range(config.num_layers - 2):
        shapes |= _block_shapes(f"proj_mlp2_{depth}", hidden, inner)
    return shapes | {"proj_out_weight": (config.receiver_dim, hidden), "proj_out_bias": (config.receiver_dim,)}


def _block_shapes(name: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}_norm": (hidden,), f"{name}_w1_weight": (inner, hidden), f"{name}_w2_weight": (hidden, inner)}


def linear(bank: Bank, name: str, value: Tensor) -> Tensor:
    """Applies one linear layer of every entry, ``[entries, tokens, in]`` to ``[entries, tokens, out]``."""
    weight, bias = bank[f"{name}_weight"].transpose(1, 2), bank.get(f"{name}_bias")
    return torch.bmm(value, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), value, weight)


def block(bank: Bank, name: str, value: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies one FFN block, ``y + drop(w2 gelu(w1 rms_norm(y)))``, ``[entries, tokens, hidden]``."""
    normed = F.rms_norm(value, value.shape[-1:], eps=NORM_EPS) * bank[f"{name}_norm"].unsqueeze(1)
    inner = F.gelu(linear(bank, f"{name}_w1", normed))
    return value + drop(linear(bank, f"{name}_w2", inner))


def gumbel_like(value: Tensor) -> Tensor:
    """Draws standard Gumbel noise of the shape and dtype of ``value``; in float32, where the tails live."""
    tiny = torch.finfo(torch.float32).tiny
    noise = torch.empty_like(value, dtype=torch.float32).exponential_().clamp_min(tiny)
    return -noise.log().to(value.dtype)
