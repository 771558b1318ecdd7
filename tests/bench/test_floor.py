"""The floor's arithmetic against operations that torch itself counts."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.candidates import Task, make_arms
from harness.bench.model_shapes import FuserWidths, read_pair
from harness.bench.roofline import Cost, Speeds, best_speeds, floor_s, fusion_cost, model_cost
from harness.bench.synthetic_pair import Pair, build_pair, questions
from harness.fusers.c2c import Fuser, FuserConfig
from harness.models.lm import LM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build_pair(read_pair("tiny"), torch.float32, CPU, FuserWidths(16, 24, 4))


def counted(lm: LM, tokens: int, rows: int) -> int:
    """Operations of the layers' products and of one position's vocabulary projection, attention left out."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lm.model(torch.ones(rows, tokens, dtype=torch.long), logits_to_keep=1, use_cache=False)
    by_name = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    return sum(n for op, n in by_name.items() if "attention" not in op)


@pytest.mark.parametrize("which", ["receiver", "sharer"])
def test_products_of_a_forward_call_are_those_that_torch_counts(pair: Pair, which: str) -> None:
    lm = getattr(pair, which)
    cost = model_cost(lm.config, 4)
    attention = sum(4 * cost.layers * cost.attention * (past + 1) for past in range(7))
    assert cost.call(rows=3, new=7, logits=1).flops == counted(lm, 7, 3) + 3 * attention


@pytest.mark.parametrize("which", ["receiver", "sharer"])
def test_counted_products_are_those_of_the_weights(pair: Pair, which: str) -> None:
    cost = model_cost(getattr(pair, which).config, 4)
    assert cost.token_flops == 2 * cost.layers * cost.layer_weights
    assert cost.logit_flops == 2 * cost.head_weights


@pytest.mark.parametrize("name", ["receiver", "sharer", "t2t", "c2c", "c2c:layers=last1", "ensemble"])
@pytest.mark.parametrize("task", [Task(3), Task(0, 3, 4)])
def test_an_arm_is_charged_the_calls_of_its_channel(pair: Pair, name: str, task: Task) -> None:
    queries = questions(pair, 2, 20, (task.options, task.option_tokens), random.Random(0))
    with torch.inference_mode():
        found = make_arms(pair, [name], 5)[name](queries, task).calls
    ours, theirs = (model_cost(lm.config, 4) for lm in (pair.receiver, pair.sharer))
    asked = ours.call(2, 20, logits=1)
    first = {
        "receiver": {"receiver_prefill": [asked]},
        "sharer": {"sharer_prefill": [theirs.call(2, 20, logits=1)]},
        "ensemble": {"sharer_prefill": [theirs.call(2, 20, logits=1)], "receiver_prefill": [asked]},
    }
    if name in first:
        assert {stage: found[stage] for stage in first[name]} == first[name]
    elif name == "t2t":
        assert found["sharer_decode"] == theirs.decode(2, 20, 4)
        assert found["message_transfer"] == []
    else:
        chosen = pair.fuser.all_entries() if name == "c2c" else (1, 3)
        assert found["sharer_prefill"] == [theirs.call(2, 19, cache_only=True)]
        assert found["fusion"] == [fusion_cost(pair.fuser, 2 * 19, 4, chosen)]
        assert found["message_transfer"] == [Cost(0.0, 2.0 * 2 * 19 * len(chosen) * pair.fuser.config.sharer_dim * 4)]
        assert found["receiver_prefill"] == [ours.call(2, 19, cache_only=True), ours.call(2, 1, 19, logits=1)]
    answering = theirs if name == "sharer" else ours
    behind = None if name in ("t2t", "ensemble") else 20
    if behind and task.new_tokens:
        assert found[f"{'sharer' if name == 'sharer' else 'receiver'}_decode"] == answering.decode(2, 20, 2)
    elif behind:
        assert found["scoring"] == [answering.call(2, 9, 20, logits=9)]


def test_weights_of_the_layers_are_those_that_the_model_has(pair: Pair) -> None:
    cost = model_cost(pair.receiver.config, 4)
    layers = pair.receiver.model.base_model.layers
    assert cost.layers * cost.layer_weights == sum(p.numel() for p in layers.parameters() if p.ndim == 2)


def test_a_cache_alone_spares_the_end_of_the_last_layer(pair: Pair) -> None:
    cost = model_cost(pair.receiver.config, 2)
    full, cache = cost.call(1, 10), cost.call(1, 10, cache_only=True)
    last = pair.receiver.model.base_model.layers[-1]
    spared = sum(
        p.numel() for n, p in last.named_parameters() if p.ndim == 2 and "k_proj" not in n and "v_proj" not in n
    )
    assert full.bytes_moved - cache.bytes_moved == 2 * spared
    assert full.flops - cache.flops == 2 * 10 * spared + 4 * cost.attention * 55


def test_fusion_costs_the_products_that_torch_counts(pair: Pair) -> None:
    fuser, config = pair.fuser, pair.fuser.config
    sharer = torch.randn(2 * len(config.layer_map), 5, config.sharer_dim)
    receiver = torch.randn(2 * len(config.layer_map), 5, config.receiver_dim)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fuser(sharer, receiver)
    assert fusion_cost(fuser, 5, 4).flops == counter.get_total_flops()
    products = config.hidden_dim * (config.sharer_dim + 2 * config.receiver_dim + config.receiver_heads)
    products += (config.num_layers - 1) * 2 * config.hidden_dim * config.intermediate_dim + 2 * config.hidden_dim**2
    assert fusion_cost(fuser, 5, 4).flops == 2 * 5 * 2 * fuser.layers * products


def test_fusion_of_the_published_shapes_has_the_known_size() -> None:
    config = FuserConfig(
        **{"sharer_heads": 2, "sharer_head_dim": 64, "receiver_heads": 8, "receiver_head_dim": 128},
        **{"hidden_dim": 1024, "intermediate_dim": 1024, "num_layers": 3},
        layer_map=tuple((i, 0) for i in range(28)),
    )
    with torch.device("meta"):
        fuser = Fuser(config)
    assert fusion_cost(fuser, 1, 4).flops == 2 * 56 * (1152 * 1024 + 6 * 1024**2 + 8 * 1024 + 1024**2)


def test_each_call_is_charged_its_larger_half() -> None:
    machine = Speeds(flops_per_s=10.0, bytes_per_s=100.0)
    assert floor_s([Cost(20.0, 100.0), Cost(1.0, 400.0)], machine) == 2.0 + 4.0


def test_speeds_are_medians_and_the_best_product_counts() -> None:
    assert best_speeds([[1.0, 5.0, 9.0, 3.0], [2.0, 1.0, 7.0, 3.0], [3.0, 4.0, 8.0, 2.0]]) == Speeds(4.0, 8.0, 3.0)
