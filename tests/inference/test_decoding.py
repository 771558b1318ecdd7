"""Greedy decoding against transformers' own, where texts end, and numbers that are not finite."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.inference import forward
from harness.inference import generate as decoding
from harness.inference.generate import NonFiniteLogits, generate, score
from harness.inference.types import CallStats
from harness.models.chat import encode
from harness.models.lm import LM
from tests.support.tiny import KINDS, fused, random_lm, shared_lm
from tests.support.work import BUDGET, SENTENCES, context_of, query, read, written


def test_scoring_leaves_the_context_as_it_was() -> None:
    lm = shared_lm("gemma3")
    context = read(lm, SENTENCES)
    options = [[(3, 4, 5), (6,), (7, 8)]] * len(SENTENCES)
    with torch.inference_mode():
        first, again = (score(context, options, CallStats()) for _ in range(2))
        after = generate(context, BUDGET, [()] * len(SENTENCES), CallStats())
    assert first == again
    assert after == written(lm, SENTENCES, [()] * len(SENTENCES))


@pytest.mark.usefixtures("both_attentions")
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_equals_transformers_own(kind: str) -> None:
    lm = shared_lm(kind)
    for text, found in zip(SENTENCES, written(lm, SENTENCES, [()] * len(SENTENCES)), strict=True):
        ids = torch.tensor([encode(lm, query(text).receiver).ids])
        expected = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=BUDGET, do_sample=False)
        assert list(found.tokens) == expected[0, ids.shape[1] :].tolist()


@settings(max_examples=40)
@given(text=st.sampled_from(SENTENCES), bounds=st.tuples(st.integers(0, 40), st.integers(1, 6)))
def test_a_stop_string_ends_the_text_at_the_earliest_token(text: str, bounds: tuple[int, int]) -> None:
    lm = shared_lm("qwen3")
    (free,) = written(lm, [text], [()])
    stop = free.text[bounds[0] : bounds[0] + bounds[1]]
    assume(stop and "\ufffd" not in stop)
    (found,) = written(lm, [text], [("never written", stop)])
    assert found.text == free.text[: free.text.index(stop)]
    decoded = [lm.tokenizer.decode(free.tokens[:n], skip_special_tokens=True) for n in range(1, BUDGET + 1)]
    first = next(n for n, so_far in enumerate(decoded, 1) if stop in so_far)
    assert found.tokens == free.tokens[:first]


def test_a_stop_string_at_the_very_start_leaves_an_empty_text() -> None:
    lm = shared_lm("qwen3")
    (free,) = written(lm, SENTENCES[:1], [()])
    (found,) = written(lm, SENTENCES[:1], [(free.text[:1],)])
    assert (found.text, len(found.tokens)) == ("", 1)


def test_of_several_stop_strings_the_earliest_in_the_text_cuts() -> None:
    lm = shared_lm("qwen3")
    ours = written(lm, SENTENCES, [()] * len(SENTENCES))
    words = [(i, lm.tokenizer.decode([token])) for i, free in enumerate(ours) for token in free.tokens]
    at, word = next((i, word) for i, word in words if len(set(word)) > 1)  # one token brings both stops
    (found,) = written(lm, [SENTENCES[at]], [(word[1], word[0])])
    assert found.text == ours[at].text[: min(ours[at].text.index(word[1]), ours[at].text.index(word[0]))]


def test_a_stop_token_ends_the_row_and_is_counted_but_not_written() -> None:
    lm = shared_lm("qwen3")
    (free,) = written(lm, SENTENCES[1:2], [()])
    stopping = _stopping_at(lm, free.tokens[3])
    (found,) = written(stopping, SENTENCES[1:2], [()])
    first = free.tokens.index(free.tokens[3])
    assert found.tokens == free.tokens[: first + 1]


def test_an_exact_length_ignores_stops() -> None:
    lm = shared_lm("qwen3")
    (free,) = written(lm, SENTENCES[:1], [()])
    (found,) = written(_stopping_at(lm, free.tokens[0]), SENTENCES[:1], [(free.text[:1],)], exactly=BUDGET)
    assert found.tokens == free.tokens


def test_finished_rows_leave_the_batch_and_the_rest_goes_on_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared_lm("qwen3")
    alone = [written(lm, [text], [()])[0] for text in SENTENCES[:4]]
    stops = [(a.text[:1],) for a in alone[:3]] + [("never written",)]
    rows = _count_rows(monkeypatch)
    found = written(lm, SENTENCES[:4], stops)
    assert rows == [1] * (BUDGET - 1)
    assert [g.text for g in found] == ["", "", "", alone[3].text]
    assert found[3].tokens == alone[3].tokens


def _count_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []

    def counted(lm: LM, buffer: Any, columns: Any, *rest: Any, **more: Any) -> Tensor | None:
        rows.append(columns.ids.shape[0])
        return forward.extend(lm, buffer, columns, *rest, **more)

    monkeypatch.setattr(decoding, "extend", counted)
    return rows


def _stopping_at(lm: LM, token: int) -> LM:
    return replace(lm, stop_ids=lm.stop_ids | {token})


def _poisoned(part: str, layer: int) -> LM:
    lm = random_lm("qwen3")
    with torch.no_grad():
        lm.model.get_parameter(f"model.layers.{layer}.{part}.weight").fill_(math.nan)
    return lm


@pytest.mark.parametrize(
    ("part", "layer", "said"),
    [
        ("self_attn.k_proj", 0, "in the K of layer 0"),
        ("self_attn.v_proj", 1, "in the V of layer 1"),
        ("self_attn.o_proj", 1, "in the K of layer 2"),
        ("mlp.down_proj", 2, "after the last layer's cache"),
    ],
)
def test_numbers_that_are_not_finite_are_raised_with_the_layer_where_they_begin(
    part: str, layer: int, said: str
) -> None:
    context = read(_poisoned(part, layer), SENTENCES[:3])
    with torch.inference_mode(), pytest.raises(NonFiniteLogits, match=said):
        generate(context, 2, [()] * 3, CallStats())
    with torch.inference_mode(), pytest.raises(NonFiniteLogits, match=said):
        score(context, [[(3, 4)]] * 3, CallStats())


def test_a_fuser_that_is_not_finite_is_named_by_the_layer_that_it_fused() -> None:
    channel = fused(shared_lm("qwen3"), shared_lm("qwen2", 1))
    with torch.no_grad():
        channel.links[0].fuser.get_parameter("proj_out_weight")[4].fill_(math.nan)  # V of layer 1
    with pytest.raises(NonFiniteLogits, match="in the V of layer 1"):
        generate(context_of(channel, [query("Why?")]), 2, [()], CallStats())
