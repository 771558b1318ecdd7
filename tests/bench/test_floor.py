"""The floor's arithmetic against operations that torch itself counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.build import FuserWidths, Pair, build_pair
from harness.bench.floor import Cost, floor_s, fusion_cost, model_cost
from harness.bench.machine import Speeds, speeds
from harness.bench.shapes import read_pair
from harness.fusion.config import FuserConfig
from harness.models import LM

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
    assert fusion_cost(config, 5, 4).flops == counter.get_total_flops()


def test_fusion_of_the_published_shapes_has_the_known_size() -> None:
    config = FuserConfig(2, 64, 8, 128, 1024, 1024, 3, tuple((i, 0) for i in range(28)))
    assert fusion_cost(config, 1, 4).flops == 2 * 56 * (1152 * 1024 + 6 * 1024**2 + 8 * 1024 + 1024**2)


def test_each_call_is_charged_its_larger_half() -> None:
    machine = Speeds(flops_per_s=10.0, bytes_per_s=100.0)
    assert floor_s([Cost(20.0, 100.0), Cost(1.0, 400.0)], machine) == 2.0 + 4.0


def test_speeds_are_medians_and_the_best_product_counts() -> None:
    assert speeds([[1.0, 5.0, 9.0, 3.0], [2.0, 1.0, 7.0, 3.0], [3.0, 4.0, 8.0, 2.0]]) == Speeds(4.0, 8.0, 3.0)
