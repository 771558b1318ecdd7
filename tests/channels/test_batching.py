"""What a request gets does not depend on what it is batched with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.inference.batching import Budget
from harness.inference.types import Answer, Request
from harness.models.lm import LM
from tests.support.tiny import FOREIGN, fused, shared_lm
from tests.support.work import SENTENCES, answers, context_of, query

TOLERANCE = 1e-4
OPTIONS = ("A", " B", " the sky", "Wenn Blau 🙂", " every one of several words")
PREFIXES = ("", "The answer is")

WORDS = st.sampled_from(SENTENCES) | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30)
GENERATIONS = st.builds(
    lambda text, prefix: Request(query(text, prefix=prefix), max_new_tokens=6), WORDS, st.sampled_from(PREFIXES)
)
SCORINGS = st.builds(
    lambda text, prefix, options: Request(query(text, prefix=prefix), options=tuple(options)),
    WORDS,
    st.sampled_from(PREFIXES),
    st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=5),
)
REQUESTS = st.lists(GENERATIONS | SCORINGS, min_size=2, max_size=7)


Model = Callable[..., LM]


def _text(model: Model, receiver: str, sharer: str) -> Channel:
    return TextToText(model(receiver), model(sharer, 1, FOREIGN), TextVariant(max_new_tokens=5))


def _foreign(model: Model, receiver: str, sharer: str, alignment: str) -> Channel:
    return fused(model(receiver), model(sharer, 1, FOREIGN), alignment=alignment)


def _several(model: Model, mode: str) -> Channel:
    return fused(model("qwen3"), model("qwen2", 1), model("llama", 2, FOREIGN), model("gemma3", 3), mode=mode)


CHANNELS: dict[str, Callable[[Model], Channel]] = {
    "single-qwen3": lambda model: Single(model("qwen3")),
    "single-qwen2": lambda model: Single(model("qwen2")),
    "single-llama": lambda model: Single(model("llama")),
    "single-gemma3": lambda model: Single(model("gemma3")),
    "t2t-qwen3-llama": lambda model: _text(model, "qwen3", "llama"),
    "t2t-gemma3-qwen2": lambda model: _text(model, "gemma3", "qwen2"),
    "c2c-qwen3-qwen2": lambda model: fused(model("qwen3"), model("qwen2", 1)),
    "c2c-gemma3-llama": lambda model: fused(model("gemma3"), model("llama", 1)),
    "c2c-llama-gemma3": lambda model: fused(model("llama"), model("gemma3", 1)),
    "c2c-qwen3-llama-first": lambda model: _foreign(model, "qwen3", "llama", "first"),
    "c2c-gemma3-qwen2-longest": lambda model: _foreign(model, "gemma3", "qwen2", "longest"),
    "c2c-three-sequential": lambda model: _several(model, "sequential"),
    "c2c-three-parallel": lambda model: _several(model, "parallel"),
}


@functools.cache
def channel_named(name: str, attention: str = "sdpa") -> Channel:
    return CHANNELS[name](functools.partial(shared_lm, attention=attention))


def assert_alike(one: Answer, other: Answer) -> None:
    assert one.fault is None, one.fault
    assert replace(one, scored=(), entropy=None) == replace(other, scored=(), entropy=None)
    assert one.entropy == pytest.approx(other.entropy, abs=TOLERANCE)
    assert [s.greedy for s in one.scored] == [s.greedy for s in other.scored]
    for a, b in zip(one.scored, other.scored, strict=True):
        assert a.loglikelihood == pytest.approx(b.loglikelihood, abs=TOLERANCE)


@pytest.mark.parametrize("name", CHANNELS)
@settings(max_examples=10)
@given(requests=REQUESTS, budget=st.sampled_from([Budget(3), Budget(8), Budget(8, 150)]))
def test_batches_give_what_each_request_gives_alone(name: str, requests: list[Request], budget: Budget) -> None:
    channel = channel_named(name)
    for one, other in zip(answers(channel, requests, Budget(1)), answers(channel, requests, budget), strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("name", CHANNELS)
def test_eager_and_sdpa_attention_agree(name: str) -> None:
    requests = [Request(query(text), options=OPTIONS) for text in SENTENCES]
    fast, plain = (answers(channel_named(name, attention), requests, Budget(3)) for attention in ("sdpa", "eager"))
    for one, other in zip(fast, plain, strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("name", [n for n in CHANNELS if not n.startswith("single")])
def test_the_message_changes_the_answer(name: str) -> None:
    channel, queries = channel_named(name), [query(text) for text in SENTENCES]
    heard, alone = context_of(channel, queries).logits, context_of(Single(channel.answers), queries).logits
    assert ((heard - alone).abs().amax(-1) > 0.05).all()
