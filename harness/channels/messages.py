"""Messages: what crosses from a sharer to a receiver, how it is encoded, and how many bytes that is.

A message is empty, text or tensors. Controls and records know it by its base class alone: a channel sends a
`TextMessage`, a `TensorMessage` or a subclass with fields of its own, and every control of that kind works on it. The
receiver and all controls work on what was decoded. Nothing here runs a model.

Tensors cross as they are or quantised symmetrically. For the `head_dim` features x of one token and head of one entry,
q = round(x / scale) and x' = q * scale with scale = max|x| / q_max, where q_max is 127 (int8) or 7 (int4), so that |x'
- x| <= max|x| / (2 q_max) up to the rounding of the scale to bfloat16, which precedes its values. Each token is encoded
by itself, so what a question gets does not depend on its batch. A number that is not finite turns its token and head
into NaN, which is found where the answer is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import Self

from harness.channels.registry import Payload
from harness.errors import UserError
from harness.inference.types import CallStats

Row = tuple[Tensor, ...]  # what crosses of one query: a part a sharer, [entries, its tokens, features]


@runtime_checkable
class Message(Protocol):
    """What crosses from sharer to receiver, for a batch of queries."""

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Bytes that cross, per query."""

    def __len__(self) -> int:
        """Number of queries."""


@dataclass(frozen=True)
class NoMessage:
    """The message of a model that works alone."""

    rows: int

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Nothing crosses."""
        return (0,) * self.rows

    def __len__(self) -> int:
        """Number of queries."""
        return self.rows


@dataclass(frozen=True)
class TextMessage:
    """What the sharer wrote, a text a query, and the turn that it answered."""

    texts: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes of each text."""
        return tuple(len(t.encode()) for t in self.texts)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.texts)

    def only(self, place: int) -> Self:
        """The message of one query."""
        return replace(self, texts=(self.texts[place],), asked=(self.asked[place],))

    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same message with other texts, one a query.

        Raises:
            UserError: there is another number of them.
        """
        _one_each(len(texts), len(self), "texts")
        return replace(self, texts=tuple(texts))


@dataclass(frozen=True)
class TensorMessage:
    """Tensors that cross, token by token: keys and values, hidden states, soft prompts.

    Attributes:
        parts: one a sharer, `[entries, tokens of all queries, features]`; an entry is what is scaled and shuffled
            alike for all its tokens, such as the keys of one layer.
        lengths: tokens of each query, in the order of `parts`.
        heads: of each part, into which its features divide evenly; empty for one each. See `harness.channels.messages`.
        crossed: bytes that crossed for each query; None where the tensors cross as they are.
    """

    parts: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    heads: tuple[int, ...] = ()
    crossed: tuple[int, ...] | None = None

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Bytes that cross, per query."""
        if self.crossed is not None:
            return self.crossed
        per_token = sum(p.shape[0] * p.shape[2] * p.element_size() for p in self.parts)
        return tuple(n * per_token for n in self.lengths)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.lengths)

    def row(self, place: int) -> Row:
        """What crosses of one query."""
        start = sum(self.lengths[:place])
        return tuple(part[:, start : start + self.lengths[place]] for part in self.parts)

    def rows(self) -> list[Row]:
        """What crosses of every query."""
        return list(zip(*(part.split(list(self.lengths), dim=1) for part in self.parts), strict=True))

    def only(self, place: int) -> Self:
        """The message of one query."""
        crossed = None if self.crossed is None else (self.crossed[place],)
        return replace(self, parts=self.row(place), lengths=(self.lengths[place],), crossed=crossed)

    def with_rows(self, rows: Sequence[Row]) -> Self:
        """The same message with other tensors of the same shapes, a row a query.

        Raises:
            UserError: there is another number of rows.
            ValueError: a row has another number of tokens than the query's own message.
        """
        _one_each(len(rows), len(self), "rows")
        if any(part.shape[1] != tokens for row, tokens in zip(rows, self.lengths, strict=True) for part in row):
            raise ValueError("a row of a message has another number of tokens than before")
        return replace(self, parts=tuple(torch.cat(parts, dim=1) for parts in zip(*rows, strict=True)))


def _one_each(given: int, wanted: int, what: str) -> None:
    """Refuses another number at once: an error of a batch would be gone when its questions are asked one by one."""
    if given != wanted:
        raise UserError(f"a message of {wanted} questions was given {given} {what}; give each question one, in order.")


def texts_of(message: Message) -> Sequence[str | None]:
    """Returns what was written for each query; None where the message is no text."""
    return message.texts if isinstance(message, TextMessage) else (None,) * len(message)


PAYLOADS: tuple[str, ...] = get_args(Payload)

_BITS = {"int8": 8, "int4": 4}

_SCALE_BYTES = 2

_VALUES_AT_ONCE = 2**24


def to_receiver_device(
    message: TensorMessage, payload: Payload, device: torch.device, work: CallStats
) -> TensorMessage:
    """Carries a message from its sharers' devices to the receiver's; the last step of a channel's `send`.

    Args:
        message: what is sent.
        payload: form in which it crosses.
        device: the receiver's.
        work: is charged with the bytes, and with the seconds as ``message_transfer``.

    Returns:
        What arrives: of the same shapes and dtypes, `payload_bytes` being the bytes of the form that crossed.
    """
    if not any(part.numel() for part in message.parts):
        return _moved(message, device)  # nothing crosses, so no stage
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
