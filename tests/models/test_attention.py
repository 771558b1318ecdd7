"""Grouped attention is transformers' eager attention without its copies."""

from __future__ import annotations

import pytest
import torch

from harness.errors import UserError
from harness.models import grouped_attention
from harness.models.lm import LM
from harness.models.loading import load
from tests.support.tiny import GOLDEN, KINDS, OURS, random_lm
from tests.support.work import SENTENCES, read, written

grouped_attention.register()


def pair(kind: str) -> tuple[LM, LM]:
    return random_lm(kind, attention="eager"), random_lm(kind, attention=grouped_attention.GROUPED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_reads_and_writes_as_with_eager_attention(kind: str) -> None:
    eager, grouped = pair(kind)
    torch.testing.assert_close(read(grouped, SENTENCES).logits, read(eager, SENTENCES).logits, rtol=1e-4, atol=1e-4)
    answers = [[w.tokens for w in written(lm, SENTENCES, [()] * len(SENTENCES))] for lm in (grouped, eager)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_without_a_mask_is_still_causal(kind: str) -> None:
    eager, grouped = pair(kind)
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(grouped.model(ids).logits, eager.model(ids).logits, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_repeated_heads() -> None:
    found = []
    for lm in pair("qwen3"):
        lm.model.requires_grad_(True).zero_grad()
        lm.model(torch.arange(5, 25)[None]).logits.square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_a_name_that_is_none_is_refused() -> None:
    assert load(str(GOLDEN / OURS), device="cpu", attention="grouped").config._attn_implementation == "grouped"
    with pytest.raises(UserError, match="grouped"):
        load(str(GOLDEN / OURS), device="cpu", attention="groupd")
