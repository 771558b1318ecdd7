"""How a message of tensors crosses: as it is, or in int8 or int4 with a scale for each token and head.

Symmetric quantisation. For the `head_dim` features x of one token and head of one entry

    scale = max|x| / q_max,   q = round(x / scale),   x' = q * scale,   q_max = 127 (int8) or 7 (int4)

so that |x' - x| <= max|x| / (2 q_max) up to the rounding of the scale to bfloat16, which stands before its values on
the wire. A token is encoded by itself, so what a question gets does not depend on its company. Numbers that are not
finite make the scale so, and all of their token and head not a number, which is found where the answer is read.

The receiver, and every control, works with what was decoded. Imports nothing that runs a model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from harness.channels.messages import TensorMessage
from harness.channels.registry import Payload
from harness.inference.types import CallStats

PAYLOADS: tuple[str, ...] = get_args(Payload)
_BITS = {"int8": 8, "int4": 4}
_SCALE_BYTES = 2
_VALUES_AT_ONCE = 2**24


def carry(message: TensorMessage, payload: Payload, device: torch.device, work: CallStats) -> TensorMessage:
    """Carries a message from its sharers' devices to the receiver's; the last step of a channel's `send`.

    Args:
        message: what is sent.
        payload: form in which it crosses.
        device: the receiver's.
        work: is charged with the bytes, and with the seconds as ``message_transfer``.

    Returns:
        What arrives: of the same shapes and dtypes, `payload_bytes` being the bytes of the form that crossed.
    """
    with work.clock.stage("message_transfer"):
        arrived = _moved(message, device) if payload == "native" else _coded(message, _BITS[payload], device)
    work.counters.bytes_moved += sum(arrived.payload_bytes)
    return arrived


def encode(part: Tensor, bits: int, heads: int = 1) -> Tensor:
    """Returns a part as bytes.

    Args:
        part: `[entries, tokens, features]`.
        bits: 8 or 4 a value.
        heads: into which the features divide evenly.

    Returns:
        uint8 `[entries, tokens, heads * (2 + values)]`: for each head a bfloat16 scale, then its values, a byte each or
        two to a byte.

    Raises:
        ValueError: the features do not divide into the heads.
    """
    entries, tokens, features = part.shape
    if features % heads:
        raise ValueError(f"{features} features do not divide into {heads} heads")
    grouped = part.float().view(entries, tokens, heads, features // heads)
    limit = 2 ** (bits - 1) - 1
    # Rounding a scale down puts the largest value less than half a step beyond the limit.
    scale = (grouped.abs().amax(-1, keepdim=True) / limit).to(torch.bfloat16)
    steps = (grouped / scale.float()).nan_to_num(0.0, 0.0, 0.0).round_().clamp_(-limit, limit).to(torch.int8)
    values = steps.view(torch.uint8) if bits == 8 else _paired(steps)
    return torch.cat([scale.view(torch.uint8), values], dim=-1).flatten(2)


def decode(wire: Tensor, bits: int, heads: int, features: int, dtype: torch.dtype) -> Tensor:
    """Returns the part `[entries, tokens, features]` that `encode` made bytes of."""
    entries, tokens, width = wire.shape
    grouped = wire.view(entries, tokens, heads, width // heads)
    scale = _packed(grouped[..., :_SCALE_BYTES]).view(torch.bfloat16).float()
    values = grouped[..., _SCALE_BYTES:]
    steps = _packed(values).view(torch.int8) if bits == 8 else _unpaired(values, features // heads)
    return (steps.float() * scale).to(dtype).reshape(entries, tokens, features)


def _packed(part: Tensor) -> Tensor:
    # `contiguous` keeps the strides of an empty tensor, which then cannot be viewed as another dtype.
    return part.clone(memory_format=torch.contiguous_format)


def _moved(message: TensorMessage, device: torch.device) -> TensorMessage:
    return replace(message, parts=tuple(part.to(device) for part in message.parts))


def _coded(message: TensorMessage, bits: int, device: torch.device) -> TensorMessage:
    heads = message.heads or (1,) * len(message.parts)
    crossed = [_crossed(part, bits, count, device) for part, count in zip(message.parts, heads, strict=True)]
    per_token = sum(bytes_ for _, bytes_ in crossed)
    parts = tuple(part for part, _ in crossed)
    return replace(message, parts=parts, crossed=tuple(n * per_token for n in message.lengths))


def _crossed(part: Tensor, bits: int, heads: int, device: torch.device) -> tuple[Tensor, int]:
    """Encodes, moves and decodes a part; returns it with the bytes that crossed for each token.

    A few entries at a time, since the float32 numbers on the way take more memory than the part itself.
    """
    _, tokens, features = part.shape
    arrived, per_token = [], 0
    for entries in part.split(max(1, _VALUES_AT_ONCE // max(1, tokens * features))):
        wire = encode(entries, bits, heads).to(device)
        per_token += wire.shape[0] * wire.shape[2]
        arrived.append(decode(wire, bits, heads, features, part.dtype))
    return torch.cat(arrived), per_token


def _paired(steps: Tensor) -> Tensor:
    """Two values from -7 to 7 to a byte, the first in its lower half; an odd last one is paired with zero."""
    raised = torch.nn.functional.pad((steps + 8).view(torch.uint8), (0, steps.shape[-1] % 2), value=8)
    return raised[..., 0::2] | (raised[..., 1::2] << 4)


def _unpaired(pairs: Tensor, count: int) -> Tensor:
    both = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(-2)
    return both[..., :count].view(torch.int8) - 8
