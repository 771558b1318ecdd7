"""The C2C fuser as the paper writes it (section 3.3): one kind of one layer, one formula at a time.

`harness.fusers.c2c` computes the same for all layers at once; a test holds the two together. Read this one first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def fuse(w: Weights, sharer: Tensor, receiver: Tensor) -> Tensor:
    """Returns the receiver's fused K (or V) of one layer, `K' = K + gate * weight * delta`, with the gate of inference.

    Args:
        w: weights of one kind of one layer, see `entry_weights`.
        sharer: K (or V) of the aligned sharer layer, post-RoPE, `[tokens, sharer_heads * sharer_head_dim]`.
        receiver: likewise of the receiver, `[tokens, receiver_heads * receiver_head_dim]`.
    """
    x = torch.cat([sharer, receiver], dim=-1)
    h = F.linear(x, w["in_weight"], w["in_bias"])  # project into hidden_dim
    h = ffn(w, "mlp1", h)
    weight = F.linear(ffn(w, "scalar_mlp2", h), w["scalar_head_weight"], w["scalar_head_bias"])
    weight = torch.sigmoid(weight)  # [tokens, receiver_heads], dynamic weighting
    for depth in range(sum(name.startswith("proj_mlp2") and name.endswith("norm") for name in w)):
        h = ffn(w, f"proj_mlp2_{depth}", h)
    delta = F.linear(h, w["proj_out_weight"], w["proj_out_bias"])
    delta = delta.unflatten(-1, (weight.shape[-1], -1))  # [tokens, receiver_heads, head_dim]
    gate = (w["gate_logit"] > 0).to(receiver.dtype)  # hard at inference
    fused: Tensor = receiver + gate * (weight[..., None] * delta).flatten(-2)
    return fused


def ffn(w: Weights, name: str, y: Tensor) -> Tensor:
    """One FFN block, `y + W2 GELU(W1 RMSNorm(y))`, bias-free, `[tokens, hidden_dim]`."""
    normed = F.rms_norm(y, y.shape[-1:], w[f"{name}_norm"], eps=1e-6)
    out: Tensor = y + F.linear(F.gelu(F.linear(normed, w[f"{name}_w1_weight"])), w[f"{name}_w2_weight"])
    return out


def entry_weights(state: Weights, entry: int) -> dict[str, Tensor]:
    """Returns the weights of one entry out of a fuser's `state_dict`, which stacks all of them."""
    return {name: value[entry] for name, value in state.items() if name != "gate_temperature"}
