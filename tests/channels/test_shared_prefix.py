"""A prompt behind another model's cache: equal to reading both texts, and nothing in layers that are not chosen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from harness.channels.interface import Unsuitable
from harness.channels.prompt_layout import prefill, prompts_of
from harness.channels.shared_prefix import check_same_shape, prefill_behind, read_cache
from harness.inference.types import CallStats, Context
from harness.models.chat import Encoded
from harness.models.lm import LM
from tests.support.tiny import random_lm, shared_lm

FIRST = ((5, 6, 7, 8, 9), (11, 12), (13, 14, 15))
SECOND = ((21, 22), (23, 24, 25, 26), (27,))
LAYERS = frozenset(range(3))


def prompts(rows: Sequence[tuple[int, ...]]) -> list[Encoded]:
    return [Encoded(row, len(row)) for row in rows]


def behind(lm: LM, layers: frozenset[int], rows: Sequence[int] = (0, 1, 2), sharer: LM | None = None) -> Context:
    first, second = ([texts[row] for row in rows] for texts in (FIRST, SECOND))
    parts, lengths = read_cache(sharer or lm, prompts(first), layers, CallStats())
    return prefill_behind(lm, parts, lengths, layers, prompts(second), CallStats())


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3"])
def test_with_all_layers_it_is_transformers_reading_both_texts(kind: str) -> None:
    lm = shared_lm(kind)
    context = behind(lm, LAYERS)
    for row, ids in enumerate(a + b for a, b in zip(FIRST, SECOND, strict=True)):
        with torch.no_grad():
            expected = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(context.logits[row], expected, atol=1e-4, rtol=0)
    assert context.next_positions == tuple(len(a + b) for a, b in zip(FIRST, SECOND, strict=True))


@pytest.mark.parametrize("layers", [frozenset(), frozenset({1}), frozenset({0, 2})])
def test_company_changes_nothing_in_any_choice_of_layers(layers: frozenset[int]) -> None:
    lm = shared_lm()
    together = behind(lm, layers).logits
    alone = torch.cat([behind(lm, layers, [row]).logits for row in range(len(FIRST))])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)


def test_without_any_layer_the_reader_is_alone_at_later_positions() -> None:
    """RoPE is relative: what stands at later positions and sees nothing before them says the same."""
    lm = shared_lm()
    torch.testing.assert_close(behind(lm, frozenset()).logits, prefill(lm, prompts(SECOND), CallStats()).logits)


def test_another_sharer_changes_what_is_read() -> None:
    lm = shared_lm()
    assert not torch.allclose(behind(lm, LAYERS).logits, behind(lm, LAYERS, sharer=random_lm(seed=3)).logits)


def test_the_sharer_needs_no_room_for_an_answer() -> None:
    from tests.support.work import query

    asked = query("Why?", room=5000)
    assert prompts_of(shared_lm(), [asked], "sharer", answering=False)[0].ids


def test_models_of_another_cache_shape_are_refused() -> None:
    check_same_shape(shared_lm(), shared_lm("llama"))
    with pytest.raises(Unsuitable, match="the receiver has 3 layers of 2 x 8, the sharer 4 of 2 x 8"):
        check_same_shape(shared_lm(), random_lm(num_hidden_layers=4))
