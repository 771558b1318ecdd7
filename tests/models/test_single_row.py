"""One row is multiplied as a vector, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from harness.models.lm import RowLinear, as_the_library_has_it, multiply_rows_as_vectors, with_own_modules
from harness.models.loading import wrap
from tests.support.tiny import KINDS, OURS, random_config, random_lm, tokenizer
from tests.support.work import SENTENCES, written


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (3, 6), (2, 3, 6), (0, 6)])
def test_products_have_the_usual_shape_and_numbers(shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5, bias, dtype=dtype))
    value = torch.randn(shape, dtype=dtype)
    expected = layer(value)
    multiply_rows_as_vectors(layer)
    assert type(layer[0]) is RowLinear
    torch.testing.assert_close(layer(value), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_only_a_single_row_goes_the_new_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Tensor] = []
    plain = torch.mv

    def counted(weight: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        calls.append(row)
        return plain(weight, row)

    monkeypatch.setattr(torch, "mv", counted)
    lm = random_lm()
    layers = sum(type(module) is RowLinear for module in lm.model.modules())
    lm.model(torch.tensor([[5, 6, 7]]))
    assert not calls
    lm.model(torch.tensor([[5]]))
    assert len(calls) == layers > 0


def test_gradients_reach_a_single_row() -> None:
    layer = nn.Sequential(nn.Linear(6, 5)).requires_grad_(False)
    rows = [torch.ones(1, 6, requires_grad=True) for _ in range(2)]
    layer(rows[0]).square().sum().backward()
    multiply_rows_as_vectors(layer)
    layer(rows[1]).square().sum().backward()
    torch.testing.assert_close(rows[1].grad, rows[0].grad)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_writes_what_the_library_lets_it_write(kind: str) -> None:
    lm = random_lm(kind)
    answers = [written(lm, [text], [()])[0].tokens for text in SENTENCES]
    with as_the_library_has_it(lm.model):
        assert not any(type(module) is RowLinear for module in lm.model.modules())
        assert [written(lm, [text], [()])[0].tokens for text in SENTENCES] == answers
    assert any(type(module) is RowLinear for module in lm.model.modules())


def test_names_weights_and_copies_are_untouched() -> None:
    layer: Any = nn.Sequential(nn.Linear(6, 5))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    multiply_rows_as_vectors(layer)
    for made in (layer, copy.deepcopy(layer)):
        assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
        assert made.state_dict().keys() == before.keys()


def test_a_model_that_is_spread_or_split_is_left_alone() -> None:
    for name, value in (("hf_device_map", {"": "cpu"}), ("_tp_size", 2)):
        layer: Any = nn.Sequential(nn.Linear(6, 5))
        setattr(layer, name, value)
        multiply_rows_as_vectors(layer)
        assert type(layer[0]) is nn.Linear


def test_the_replaced_layers_and_a_wrapped_model_stay_as_they_were() -> None:
    inner = nn.Linear(6, 6, dtype=torch.bfloat16)
    model: Any = nn.Sequential(inner, nn.Linear(6, 6), inner)
    own = with_own_modules(model)
    multiply_rows_as_vectors(own)
    assert [type(module) for module in model] == [nn.Linear] * 3
    assert [type(module) for module in own] == [RowLinear] * 3
    assert own[0] is own[2]
    assert [p.data_ptr() for p in own.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in own.parameters())


def test_a_model_object_of_the_caller_is_not_changed() -> None:
    given, words = AutoModelForCausalLM.from_config(random_config("qwen3", tokenizer(OURS))), tokenizer(OURS)
    given.train()
    given.generation_config.repetition_penalty = 1.5
    kinds = [type(module) for module in given.modules()]
    lm = wrap(given, words, chat_template="{{ messages }}")
    assert [type(module) for module in given.modules()] == kinds
    assert given.training
    assert all(p.requires_grad for p in given.parameters())
    assert given.generation_config.repetition_penalty == 1.5
    assert words.chat_template != "{{ messages }}" == lm.tokenizer.chat_template
    assert lm.model.lm_head.weight.data_ptr() == given.lm_head.weight.data_ptr()
    assert not lm.model.training
