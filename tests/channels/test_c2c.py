"""The fused channel: closed gates, several sharers against a plain reference, and what a message weighs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.channels.c2c import CacheToCache, Link
from harness.channels.messages import NoMessage
from harness.channels.single import Single
from harness.errors import UserError
from harness.fusers.c2c import Fuser
from harness.fusers.checkpoint import load, save
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import CallStats
from tests.support.channel_reference import fused_logits
from tests.support.tiny import FOREIGN, GOLDEN, OURS, fused, golden_lm, random_fuser, random_lm, shared_lm
from tests.support.work import SENTENCES, context_of, query

QUERIES = [query(text, prefix=prefix) for text in SENTENCES for prefix in ("", "Answer:")]
PAIR = tuple(f"same_tokenizer/{name}" for name in ("receiver", "sharer"))


def _pair(fuser: Fuser) -> CacheToCache:
    receiver, sharer = map(golden_lm, PAIR)
    return CacheToCache(receiver, (Link(sharer, fuser),))


def _three(mode: str, words: str) -> CacheToCache:
    sharers = (shared_lm("qwen2", 1), shared_lm("llama", 2, words), shared_lm("qwen3", 3))
    return fused(shared_lm("qwen3"), *sharers, mode=mode)


def _all_closed() -> Fuser:
    receiver, sharer = map(golden_lm, PAIR)
    return random_fuser(receiver, sharer, gates=[False] * 2 * receiver.n_layers)


def _visible(buffer: KVBuffer) -> Tensor:
    assert buffer.data is not None
    by_column = buffer.data.permute(2, 4, 0, 1, 3, 5)[:, : buffer.length]
    return by_column[buffer.real[:, : buffer.length]]


@pytest.mark.parametrize("by_gates", [True, False])
def test_closed_gates_leave_the_receivers_own_numbers_bit_for_bit(by_gates: bool) -> None:
    channel = _pair(_all_closed()) if by_gates else _pair(load(GOLDEN / "same_tokenizer/fuser")).closed()
    work = CallStats()
    context = context_of(channel, QUERIES, work)
    alone = context_of(Single(channel.answers), QUERIES)
    assert torch.equal(context.logits, alone.logits)
    assert torch.equal(_visible(context.buffer), _visible(alone.buffer))
    assert (work.counters.forwards, work.counters.fused_tokens, work.counters.bytes_moved) == (1, 0, 0)


def test_a_closed_link_beside_an_open_one_changes_nothing() -> None:
    receiver, one, two = shared_lm("qwen3"), shared_lm("qwen2", 1), shared_lm("llama", 2)
    channel = fused(receiver, one, two)
    first, second = channel.links
    with_closed = replace(channel, links=(first, replace(second, closed=True)))
    assert torch.equal(
        context_of(with_closed, QUERIES).logits, context_of(replace(channel, links=(first,)), QUERIES).logits
    )


def test_a_converted_fuser_gives_the_same_logits_bit_for_bit(tmp_path: Path) -> None:
    official = load(GOLDEN / "same_tokenizer/fuser")
    save(official, tmp_path / "ours")
    found, expected = (context_of(_pair(f), QUERIES).logits for f in (load(tmp_path / "ours"), official))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("words", [OURS, FOREIGN])
def test_several_sharers_equal_the_plain_loops(mode: str, words: str) -> None:
    channel = _three(mode, words)
    context = context_of(channel, QUERIES)
    expected = torch.stack([fused_logits(channel, channel.planner.plan(q.receiver)) for q in QUERIES])
    torch.testing.assert_close(context.logits, expected, atol=1e-4, rtol=1e-4)


def test_the_modes_differ_and_only_sequential_fusion_depends_on_the_order() -> None:
    found = {}
    for mode in ("sequential", "parallel"):
        channel = _three(mode, FOREIGN)
        renumbered = replace(channel, links=channel.links[::-1])
        found[mode] = [context_of(c, QUERIES).logits for c in (channel, renumbered)]
    torch.testing.assert_close(*found["parallel"], atol=1e-4, rtol=1e-4)
    assert (found["sequential"][0] - found["sequential"][1]).abs().max() > 0.01
    assert (found["sequential"][0] - found["parallel"][0]).abs().max() > 0.01


def test_only_what_open_gates_read_crosses_and_each_layer_once() -> None:
    receiver, sharer = shared_lm("qwen3"), random_lm("qwen2", seed=1, num_hidden_layers=2)
    gates = [True, True, False, False, False, True]  # K of layers 0 and 1 (both read sharer layer 0), V of layer 2
    channel = CacheToCache(receiver, (Link(sharer, random_fuser(receiver, sharer, gates=gates)),))
    assert channel.links[0].sent == ((0, 0), (1, 1))
    message = channel.send(QUERIES, work := CallStats())
    head_bytes = sharer.config.num_key_value_heads * sharer.config.head_dim * 4
    fused_tokens = [channel.planner.plan(q.receiver).n_fused for q in QUERIES]
    assert message.payload_bytes == tuple(n * 2 * head_bytes for n in fused_tokens)
    assert work.counters.bytes_moved == sum(message.payload_bytes)
    assert len(message) == len(QUERIES)


def test_all_prompt_tokens_but_the_last_are_fused_and_the_answers_prefix_never() -> None:
    channel = fused(shared_lm("qwen3"), shared_lm("qwen2", 1))
    bare, opened = (channel.planner.plan(query("Why?", prefix=p).receiver) for p in ("", " The answer is"))
    assert bare.fused == ((0, len(bare.ids[0]) - 1),)
    assert opened.fused == ((0, len(bare.ids[0])),)
    assert len(opened.ids[0]) > len(bare.ids[0])


@pytest.mark.parametrize("texts", [["", ""], ["", "Why?"]])
def test_a_prompt_without_anything_to_fuse_is_read_as_it_is(texts: list[str]) -> None:
    channel = fused(shared_lm("qwen3"), shared_lm("llama", 1, FOREIGN))
    queries = [query(text) for text in texts]
    context, closed = context_of(channel, queries), context_of(channel.closed(), queries)
    torch.testing.assert_close(context.logits[0], closed.logits[0], atol=1e-5, rtol=1e-5)


def test_a_message_of_another_kind_is_refused() -> None:
    channel = fused(shared_lm("qwen3"), shared_lm("qwen2", 1))
    with pytest.raises(TypeError, match="NoMessage"):
        channel.receive(QUERIES, NoMessage(len(QUERIES)), CallStats())


@pytest.mark.parametrize(("alignment", "said"), [("off", "Alignment 'off' needs"), ("frist", "Did you mean 'first'")])
def test_alignments_that_cannot_be_are_refused_in_a_sentence(alignment: str, said: str) -> None:
    channel = fused(shared_lm("qwen3"), shared_lm("llama", 1, FOREIGN), alignment=alignment)
    with pytest.raises(UserError, match=said):
        channel.prompt_length(QUERIES[0])


def test_the_variant_names_what_was_chosen() -> None:
    assert _three("parallel", FOREIGN).variant == "alignment first, parallel"
    assert fused(shared_lm("qwen3"), shared_lm("qwen2", 1)).variant == "alignment off"
