"""What the channels hold at once: tokens are fused in chunks, and an answer needs no second cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.channels import c2c
from harness.channels.single import Single
from harness.fusers.c2c import Fuser
from harness.inference.forward import ANSWER_ROOM
from harness.inference.generate import generate
from harness.inference.types import CallStats, Context
from tests.support.tiny import fused, shared_lm
from tests.support.work import SENTENCES, context_of, query

QUERIES = [query(text) for text in SENTENCES]


def _channel(mode: str) -> c2c.CacheToCache:
    return fused(shared_lm("qwen3"), shared_lm("qwen2", 1), shared_lm("qwen3", 2), mode=mode)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_fusing_in_chunks_changes_no_number(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = context_of(_channel(mode), QUERIES)
    tokens: list[int] = []
    forward = Fuser.forward

    def spy(self: Fuser, sharer: Tensor, receiver: Tensor, entries: tuple[int, ...]) -> Tensor:
        tokens.append(receiver.shape[1])
        return forward(self, sharer, receiver, entries)

    monkeypatch.setattr(Fuser, "forward", spy)
    monkeypatch.setattr(c2c, "_CPU_GATHERED_BYTES", 5 * _bytes_of_a_token(whole))
    chunked = context_of(_channel(mode), QUERIES)
    assert max(tokens) == 5
    assert sum(tokens) == 2 * sum(p - 1 for p in whole.prompt_tokens)
    torch.testing.assert_close(chunked.logits, whole.logits, atol=1e-5, rtol=1e-5)


def _bytes_of_a_token(context: Context) -> int:
    return context.buffer.nbytes // (context.buffer.rows * context.buffer.length)


@pytest.mark.parametrize("channel", ["single", "c2c"])
def test_a_usual_answer_is_decoded_into_the_cache_that_the_prompt_filled(channel: str) -> None:
    made = Single(shared_lm("qwen3")) if channel == "single" else _channel("sequential")
    context = context_of(made, QUERIES[:2])
    assert context.buffer.data is not None
    before = context.buffer.data.data_ptr()
    with torch.inference_mode():
        generate(context, 0, [(), ()], CallStats(), exactly=ANSWER_ROOM)
    assert context.buffer.data.data_ptr() == before
