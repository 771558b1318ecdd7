"""Masks by layer: a layer that may not see a prefix computes what it would without it, in every way of reading."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.masking_utils import sliding_window_causal_mask_function

from harness.errors import UserError
from harness.inference.attention_mask import LayerMask
from harness.inference.forward import ANSWER_ROOM, extend, left_padded, new_buffer
from harness.inference.generate import generate, score
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import CallStats, Context, Counters
from harness.models import grouped_attention
from harness.models.lm import LM
from harness.self_check.check import small_lm
from harness.self_check.sweep import tiny_model
from tests.support.tiny import KINDS, random_lm, shared_lm

NOTES = [[31, 32, 33, 34, 35], [41, 42]]
QUESTIONS = [[3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
CHOSEN = (1,)


def with_notes(lm: LM, notes: list[list[int]], hidden_from: tuple[int, ...]) -> tuple[KVBuffer, LayerMask]:
    """A cache that begins with notes, which a KVComm-like sender has read alone, and what the other layers may see."""
    buffer = new_buffer(lm, len(notes), max(map(len, notes)) + max(map(len, QUESTIONS)) + ANSWER_ROOM)
    columns = left_padded(notes, [0] * len(notes), lm)
    extend(lm, buffer, columns, Counters())
    return buffer, LayerMask.prefix(hidden_from, columns.real)


@torch.inference_mode()
def read(lm: LM, notes: list[list[int]], questions: list[list[int]], hidden_from: tuple[int, ...]) -> Context:
    buffer, mask = with_notes(lm, notes, hidden_from)
    starts = [len(note) for note in notes]
    logits = extend(lm, buffer, left_padded(questions, starts, lm), Counters(), 1, mask)
    assert logits is not None
    ends = tuple(len(n) + len(q) for n, q in zip(notes, questions, strict=True))
    return Context(lm, buffer, logits[:, -1], ends, ends, layer_mask=mask)


def others(lm: LM) -> tuple[int, ...]:
    return tuple(set(range(lm.n_layers)) - set(CHOSEN))


@torch.inference_mode()
def reference(model: Any, note: list[int], question: list[int], seeing: tuple[int, ...]) -> Tensor:
    """Logits `[question tokens, vocabulary]` of plain transformers: eager attention and a 4D mask for every layer."""
    total, start = len(note) + len(question), len(note)
    masks = [explicit(model, layer, total, start, layer in seeing) for layer in range(len(model.base_model.layers))]

    def swapped(layer: int) -> Any:
        return lambda _, inputs, named: (inputs, {**named, "attention_mask": masks[layer]})

    hooks = [
        one.self_attn.register_forward_pre_hook(swapped(layer), with_kwargs=True)
        for layer, one in enumerate(model.base_model.layers)
    ]
    try:
        logits: Tensor = model(torch.tensor([[*note, *question]]), use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits[0, start:]


def explicit(model: Any, layer: int, total: int, start: int, seeing: bool) -> Tensor:
    place = torch.arange(total)
    allowed = place[None] <= place[:, None]
    kinds = getattr(model.config, "layer_types", None)
    if kinds and kinds[layer] == "sliding_attention":
        allowed &= place[:, None] - place[None] < model.config.sliding_window
    if not seeing:
        allowed &= ~((place[:, None] >= start) & (place[None] < start))
    return torch.zeros(1, 1, total, total).masked_fill_(~allowed, -math.inf).clamp(min=torch.finfo(torch.float32).min)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "grouped"])
def test_chosen_layers_alone_see_the_prefix(kind: str, implementation: str) -> None:
    grouped_attention.register()
    lm = random_lm(kind, attention=implementation)
    eager = random_lm(kind, attention="eager").model
    found = read(lm, NOTES, QUESTIONS, others(lm)).logits
    for note, question, logits in zip(NOTES, QUESTIONS, found, strict=True):
        expected = reference(eager, note, question, CHOSEN)[-1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        everything = reference(eager, note, question, tuple(range(lm.n_layers)))[-1]
        assert (expected - everything).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_that_no_layer_may_see_changes_nothing(kind: str) -> None:
    lm = shared_lm(kind)
    found = read(lm, NOTES, QUESTIONS, tuple(range(lm.n_layers))).logits
    for question, logits in zip(QUESTIONS, found, strict=True):
        with torch.inference_mode():
            alone = lm.model(torch.tensor([question])).logits[0, -1]
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_that_every_layer_sees_is_plain_reading(kind: str) -> None:
    lm = shared_lm(kind)
    found = read(lm, NOTES, QUESTIONS, ()).logits
    for note, question, logits in zip(NOTES, QUESTIONS, found, strict=True):
        with torch.inference_mode():
            plain = lm.model(torch.tensor([[*note, *question]])).logits[0, -1]
        torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_goes_on_by_the_same_masks_when_rows_leave(kind: str) -> None:
    lm = shared_lm(kind)
    notes, questions = [NOTES[0], NOTES[1], NOTES[1]], [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]]
    with torch.inference_mode():
        written = generate(read(lm, notes, questions, others(lm)), [1, 1, 5], [()] * 3, CallStats(), None)
    for note, question, found in zip(notes, questions, written, strict=True):
        ids = list(question)
        for token in found.tokens:
            assert int(reference(lm.model, note, ids, CHOSEN)[-1].argmax()) == token
            ids.append(token)
    assert len(written[2].tokens) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_scored_by_the_same_masks(kind: str) -> None:
    lm, options = shared_lm(kind), [[(20, 21, 22), (23, 24)], [(25, 26), (27,)]]
    with torch.inference_mode():
        found = score(read(lm, NOTES, QUESTIONS, others(lm)), options, CallStats())
    for note, question, texts, scored in zip(NOTES, QUESTIONS, options, found, strict=True):
        for option, one in zip(texts, scored, strict=True):
            logits = reference(lm.model, note, [*question, *option], CHOSEN).log_softmax(-1)
            places = range(len(question) - 1, len(question) - 1 + len(option))
            expected = sum(float(logits[place, token]) for place, token in zip(places, option, strict=True))
            assert one.loglikelihood == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "falcon", "gpt_neox", "opt", "olmo2", "phi", "gemma2", "gpt_oss"])
def test_other_architectures_hide_a_prefix_too(kind: str) -> None:
    lm = small_lm(tiny_model(kind, "eager"))
    rows, notes = [[9, 10, 11]], [[12, 13, 14, 15]]
    hidden, shown = (read(lm, notes, rows, layers).logits for layers in (tuple(range(lm.n_layers)), ()))
    # Positions of the question begin behind the prefix, seen or not: a model with learned positions tells them apart.
    with torch.inference_mode():
        places = torch.arange(4, 7)[None]
        alone = lm.model(torch.tensor(rows), position_ids=places).logits[:, -1]
    torch.testing.assert_close(hidden, alone, atol=1e-4, rtol=1e-4)
    assert (shown - alone).abs().max() > 1e-3


def test_nothing_stays_on_the_model_and_another_mask_is_not_mixed_in() -> None:
    lm = random_lm()
    first = read(lm, NOTES, QUESTIONS, others(lm)).logits
    read(lm, NOTES, QUESTIONS, ())
    assert torch.equal(read(lm, NOTES, QUESTIONS, others(lm)).logits, first)
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


def test_an_attention_without_masks_of_its_own_is_refused() -> None:
    lm = random_lm()
    buffer, mask = with_notes(lm, NOTES, (0,))
    lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="flash_attention_2.*sdpa or eager"):
        extend(lm, buffer, left_padded(QUESTIONS, [5, 2], lm), Counters(), 1, mask)


def test_a_layer_that_is_not_there_is_refused() -> None:
    lm = shared_lm()
    with pytest.raises(UserError, match="no attention mask to layer 9"):
        read(lm, NOTES, QUESTIONS, (9,))


def test_layers_with_the_same_columns_share_them_when_rows_leave() -> None:
    columns = torch.tensor([[True, False], [False, True]])
    kept = LayerMask.prefix((0, 2), columns).keep_rows(torch.tensor([1]))
    assert kept.hidden[0] is kept.hidden[2]
    assert kept.hidden[0].tolist() == [[False, True]]


def test_the_reference_knows_windows() -> None:
    rule = sliding_window_causal_mask_function(8)
    place = torch.arange(12)
    by_rule = rule(0, 0, place[:, None], place[None])
    model = shared_lm("gemma3").model
    assert isinstance(model, nn.Module)
    assert torch.equal(explicit(model, 0, 12, 0, True)[0, 0] == 0, by_rule)
