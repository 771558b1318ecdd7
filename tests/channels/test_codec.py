"""What crosses is counted to the byte, decodes within its bound, and does not depend on company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.channels import messages
from harness.channels.interface import Group
from harness.channels.messages import PAYLOADS, TensorMessage, decode, encode, to_receiver_device
from harness.channels.registry import ChannelEntry, Payload, TensorOptions
from harness.channels.single import Single
from harness.channels.spec import ChannelSpec
from harness.errors import UserError
from harness.evaluation.setup import _built
from harness.inference.types import CallStats, Clock

LENGTHS = (4, 0, 7)
CPU = torch.device("cpu")
BITS = {"int8": 8, "int4": 4}
LIMITS = {8: 127, 4: 7}


def part(entries: int, features: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(entries, sum(LENGTHS), features, generator=generator)
    return (drawn * torch.logspace(-3, 3, features)).to(dtype)


def sent(dtype: torch.dtype = torch.float32) -> TensorMessage:
    return TensorMessage((part(2, 12, dtype), part(3, 10, dtype, 1)), LENGTHS, heads=(3, 2))


@given(st.sampled_from([8, 4]), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31), st.floats(1e-20, 1e20))
def test_the_error_of_every_value_is_half_a_step_of_its_token_and_head(
    bits: int, heads: int, head_dim: int, seed: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(2, 5, heads * head_dim, generator=generator) * size
    wire = encode(own, bits, heads)
    read = decode(wire, bits, heads, heads * head_dim, own.dtype)
    grouped = own.view(2, 5, heads, head_dim)
    bound = grouped.abs().amax(-1, keepdim=True) / LIMITS[bits] / 2
    error = (read.view_as(grouped) - grouped).abs()
    assert bool((error <= bound * (1 + 2**-7)).all())  # the scale is rounded to bfloat16


@pytest.mark.parametrize("payload", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_payload_bytes_are_the_bytes_that_cross(payload: Payload, dtype: torch.dtype) -> None:
    message = sent(dtype)
    arrived = to_receiver_device(message, payload, CPU, CallStats())
    for place in range(len(LENGTHS)):
        crossing, read = b"", []
        for own, heads in zip(message.row(place), message.heads, strict=True):
            wire = encode(own, BITS[payload], heads)
            serialised = wire.numpy().tobytes()
            crossing += serialised
            received = torch.frombuffer(bytearray(serialised), dtype=torch.uint8) if serialised else wire.flatten()
            read.append(decode(received.view(wire.shape), BITS[payload], heads, own.shape[2], own.dtype))
        assert len(crossing) == arrived.payload_bytes[place]
        assert all(torch.equal(*pair) for pair in zip(arrived.row(place), read, strict=True))
    per_head = {"int8": 2 * 3 * (2 + 4) + 3 * 2 * (2 + 5), "int4": 2 * 3 * (2 + 2) + 3 * 2 * (2 + 3)}[payload]
    assert arrived.payload_bytes == tuple(n * per_head for n in LENGTHS)
    assert [p.dtype for p in arrived.parts] == [dtype] * 2


def test_native_crosses_as_it_is() -> None:
    message = sent(torch.bfloat16)
    arrived = to_receiver_device(message, "native", CPU, CallStats())
    assert all(torch.equal(*pair) for pair in zip(arrived.parts, message.parts, strict=True))
    raw = [sum(p.view(torch.uint8).numpy().nbytes for p in message.row(i)) for i in range(3)]
    assert list(arrived.payload_bytes) == raw


@pytest.mark.parametrize("payload", PAYLOADS)
def test_carrying_is_charged_and_timed(payload: Payload) -> None:
    work = CallStats(clock=Clock(CPU))
    arrived = to_receiver_device(sent(), payload, CPU, work)
    assert work.counters.bytes_moved == sum(arrived.payload_bytes)
    assert list(work.clock.stages_s()) == ["message_transfer"]


@pytest.mark.parametrize("payload", ["int8", "int4"])
def test_a_query_is_encoded_by_itself(payload: Payload) -> None:
    together = to_receiver_device(sent(), payload, CPU, CallStats())
    for place in range(len(LENGTHS)):
        alone = to_receiver_device(sent().only(place), payload, CPU, CallStats())
        assert all(torch.equal(*pair) for pair in zip(alone.parts, together.row(place), strict=True))
        assert alone.payload_bytes == (together.payload_bytes[place],)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros_and_the_largest_value_stays_largest(bits: int) -> None:
    own = torch.tensor([[[0.0, 0.0, 0.0, 5.0, -7.0, 1.0]]])
    read = decode(encode(own, bits, 2), bits, 2, 6, own.dtype)
    assert read[0, 0, :3].tolist() == [0.0, 0.0, 0.0]
    assert read[0, 0, 4].item() == pytest.approx(-7.0, rel=2**-8)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_spoils_its_token_and_head_alone(bits: int, bad: float) -> None:
    own = torch.ones(1, 2, 6)
    own[0, 1, 4] = bad
    read = decode(encode(own, bits, 2), bits, 2, 6, own.dtype)
    spoilt = ~read.isfinite()
    assert spoilt[0, 1, 3:].all()
    assert spoilt.sum() == 3


def test_heads_divide_the_features() -> None:
    with pytest.raises(ValueError, match="7 features do not divide into 2 heads"):
        encode(torch.ones(1, 1, 7), 8, 2)


@pytest.mark.parametrize("values_at_once", [1, 30, 10**9])
def test_how_many_entries_are_encoded_at_once_changes_nothing(
    values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = to_receiver_device(sent(), "int4", CPU, CallStats())
    monkeypatch.setattr(messages, "_VALUES_AT_ONCE", values_at_once)
    again = to_receiver_device(sent(), "int4", CPU, CallStats())
    assert again.payload_bytes == whole.payload_bytes
    assert all(torch.equal(*pair) for pair in zip(again.parts, whole.parts, strict=True))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_message_without_entries_has_no_bytes(payload: Payload) -> None:
    arrived = to_receiver_device(TensorMessage((torch.empty(0, 3, 4),), (1, 2)), payload, CPU, CallStats())
    assert arrived.payload_bytes == (0, 0)
    assert arrived.parts[0].shape == (0, 3, 4)


def test_a_builder_that_drops_the_payload_is_refused() -> None:
    entry = ChannelEntry("states", "", build=_plain, message="tensors", options=TensorOptions)
    with pytest.raises(UserError, match="states:payload=int8: payload has no effect"):
        _built(ChannelSpec(entry, TensorOptions(payload="int8")), _NOTHING)
    assert _built(ChannelSpec(entry, TensorOptions()), _NOTHING)


def _plain(models: Any, options: Any) -> list[Group]:
    return [Group(Single(models))]


_NOTHING: Any = object()
