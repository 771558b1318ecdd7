from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from harness.fusers import checkpoint
from harness.fusers.c2c import Fuser
from tests.support.fuser_reference import (
    FUSERS,
    GOLDEN,
    fused_delta,
    random_fuser,
    random_input,
    read_official,
    small_config,
)


@pytest.mark.parametrize("name", FUSERS)
def test_the_stack_equals_the_formulas(name: str) -> None:
    folder = GOLDEN / name / "fuser"
    fuser = checkpoint.load(folder)
    torch.manual_seed(1)
    sharer, receiver = random_input(fuser, 3)
    with torch.no_grad():
        expected = fused_delta(read_official(folder), sharer, receiver)
        torch.testing.assert_close(fuser(sharer, receiver), expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().max() > 0.1


def test_closed_entries_add_exactly_nothing_and_open_ones_something() -> None:
    fuser = random_fuser()
    assert fuser.open_entries() == (0, 2, 4)
    with torch.no_grad():
        added = fuser(*random_input(fuser, 4))
    assert [bool(entry.any()) for entry in added] == [True, False, True, False, True, False]


def test_a_gate_of_exactly_zero_is_closed() -> None:
    fuser = Fuser(small_config()).eval()
    assert fuser.open_entries() == ()
    assert not fuser(*random_input(fuser, 2)).any()


def test_a_subset_of_entries_equals_its_rows_of_the_whole() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 4)
    chosen = list(fuser.open_entries())
    with torch.inference_mode():
        whole = fuser(sharer, receiver)[chosen]
        for entries in (chosen, torch.tensor(chosen)):
            torch.testing.assert_close(fuser(sharer[chosen], receiver[chosen], entries), whole)


def test_given_entries_count_as_open_even_if_their_gate_is_closed() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 2, entries=1)
    assert fuser(sharer, receiver, [1]).any()
    sharer, receiver = random_input(fuser, 2)
    assert fuser(sharer, receiver, range(6))[1].any()


def test_the_bank_of_open_entries_is_gathered_once() -> None:
    fuser = random_fuser()
    chosen = fuser.open_entries()
    first = fuser._bank(chosen)
    assert fuser._bank(tuple(chosen)) is first
    assert all(value.is_contiguous() and not value.requires_grad for value in first.values())


def test_a_bank_gathered_in_inference_mode_serves_autograd_later() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 2, entries=3)
    with torch.inference_mode():
        fuser(sharer, receiver, fuser.open_entries())
    receiver.requires_grad_()
    fuser(sharer, receiver, fuser.open_entries()).sum().backward()
    assert receiver.grad is not None


def test_gates_and_bank_follow_loaded_weights() -> None:
    fuser, other = random_fuser(0), random_fuser(1)
    with torch.no_grad():
        other.gate_logit.neg_()
    assert fuser.open_entries() == (0, 2, 4)
    sharer, receiver = random_input(fuser, 2, entries=3)
    fuser(sharer, receiver, (1, 3, 5))
    fuser.load_state_dict(other.state_dict())
    assert fuser.open_entries() == (1, 3, 5)
    other.refresh()
    torch.testing.assert_close(fuser(sharer, receiver, (1, 3, 5)), other(sharer, receiver, (1, 3, 5)))


def test_gates_follow_training() -> None:
    fuser = random_fuser()
    fuser.open_entries()
    fuser.train()
    with torch.no_grad():
        fuser.gate_logit.fill_(-1.0)
    assert fuser.open_entries() == ()
    assert fuser.eval().open_entries() == ()


@pytest.mark.parametrize("tokens_at_once", [1, 3, 7])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, tokens_at_once: int) -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 2, 5)
    with torch.no_grad():
        whole = fuser(sharer, receiver)
        monkeypatch.setattr(Fuser, "tokens_per_chunk", lambda *_: tokens_at_once)
        torch.testing.assert_close(fuser(sharer, receiver), whole, atol=1e-6, rtol=1e-6)


def test_chunks_bound_the_scratch_memory() -> None:
    fuser = random_fuser(hidden_dim=64, intermediate_dim=128)
    assert fuser.tokens_per_chunk(6, 0) == 1
    assert fuser.tokens_per_chunk(3, 2**20) >= 2 * fuser.tokens_per_chunk(6, 2**20)


def test_leading_token_dimensions_are_free() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 2, 3)
    with torch.no_grad():
        batched = fuser(sharer, receiver)
        rows = [fuser(sharer[:, row], receiver[:, row]) for row in range(2)]
    assert batched.shape == receiver.shape
    torch.testing.assert_close(batched, torch.stack(rows, dim=1))


def test_no_tokens_are_no_error() -> None:
    fuser = random_fuser()
    with torch.no_grad():
        assert fuser(*random_input(fuser, 0)).shape == (6, 0, 10)


def test_bfloat16_stays_near_float32() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 3)
    with torch.no_grad():
        expected = fuser(sharer, receiver)
        found = fuser.to(torch.bfloat16)(sharer.bfloat16(), receiver.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def test_a_cache_of_another_dtype_is_served_in_its_own() -> None:
    fuser = random_fuser()
    sharer, receiver = random_input(fuser, 3)
    assert fuser(sharer.half(), receiver.half()).dtype == torch.float16


def test_training_reaches_every_parameter() -> None:
    fuser = random_fuser(num_layers=4).train()
    fuser(*random_input(fuser, 2, 3)).pow(2).sum().backward()
    for name, value in fuser.named_parameters():
        assert value.grad is not None, name
        assert value.grad.flatten(1).abs().sum(1).gt(0).all() if value.dim() > 1 else value.grad.abs().gt(0).all(), name


def test_training_with_a_subset_reaches_only_it() -> None:
    fuser = random_fuser().train()
    sharer, receiver = random_input(fuser, 3, entries=2)
    fuser(sharer, receiver, (1, 4)).sum().backward()
    assert fuser.gate_logit.grad is not None
    assert fuser.gate_logit.grad.nonzero().flatten().tolist() == [1, 4]


def test_eval_and_train_agree_when_the_gate_is_certain() -> None:
    fuser = random_fuser(dropout=0.0)
    with torch.no_grad():
        fuser.gate_logit.fill_(60.0)
    fuser.refresh()
    inputs = random_input(fuser, 3)
    with torch.no_grad():
        torch.testing.assert_close(fuser.train()(*inputs), fuser.eval()(*inputs))


def _gate_samples(fuser: Fuser, rows: int, tokens: int) -> torch.Tensor:
    """Returns the gates of one draw, ``[entries, rows, tokens, heads]``, by dividing by the certain result."""
    torch.manual_seed(5)
    sharer, receiver = random_input(fuser, rows, tokens)
    with torch.no_grad():
        soft = fuser.train()(sharer, receiver)
        certain = fuser.eval()(sharer, receiver, range(2 * fuser.layers))
    ratio = (soft / certain).unflatten(-1, (fuser.config.receiver_heads, -1))
    torch.testing.assert_close(ratio.amax(-1), ratio.amin(-1), atol=1e-3, rtol=1e-2)
    return ratio.median(-1).values


def test_gumbel_gates_open_as_often_as_their_logit_says() -> None:
    fuser = random_fuser(dropout=0.0)
    logits = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    with torch.no_grad():
        fuser.gate_logit.copy_(logits)
    fuser.set_temperature_step(10**9)
    gates = _gate_samples(fuser, 20, 100)
    opened = (gates > 0.5).float().mean((1, 2, 3))
    expected = torch.tensor([1 - math.exp(-math.exp(logit)) for logit in logits.tolist()])
    torch.testing.assert_close(opened, expected, atol=0.04, rtol=0)


def test_noise_differs_by_row_head_and_token_at_a_soft_temperature() -> None:
    gates = _gate_samples(random_fuser(dropout=0.0), 3, 4)
    assert gates.flatten(1).unique(dim=1).shape[1] == 3 * 4 * 2
    assert 0.05 < gates.std() < 0.5


def test_the_temperature_falls_geometrically() -> None:
    fuser = Fuser(small_config(anneal_steps=100))
    seen = []
    for step in (0, 50, 100, 500, -3):
        fuser.set_temperature_step(step)
        seen.append(float(fuser.gate_temperature[0]))
    assert seen == pytest.approx([1.0, math.sqrt(0.001), 0.001, 0.001, 1.0])


def test_sources_name_kind_and_layers() -> None:
    fuser = random_fuser()
    assert fuser.sources((0, 4)) == ((0, 0, 0), (1, 1, 0))
    assert len(fuser.sources()) == 6
    assert fuser.gates().tolist() == fuser.gate_logit.reshape(2, 3).tolist()


def test_initial_weights_have_the_scale_of_a_linear_layer() -> None:
    fuser = Fuser(small_config(hidden_dim=256, intermediate_dim=256))
    bound = 256**-0.5
    assert fuser.get_parameter("mlp1_w1_weight").abs().max() <= bound
    assert float(fuser.get_parameter("proj_out_bias").detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.3)
    assert fuser.get_parameter("mlp1_norm").eq(1).all()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_dim": 0},
        {"num_layers": 2},
        {"dropout": 1.0},
        {"dropout": math.nan},
        {"initial_temperature": 0.0},
        {"anneal_steps": 0},
        {"layer_map": ()},
        {"layer_map": ((1, 0), (0, 0))},
        {"layer_map": ((0, 0), (0, 1))},
        {"layer_map": ((0, -1),)},
        {"sharer_heads": True},
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        replace(small_config(), **change)
