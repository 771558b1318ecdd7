"""The paper's projector written out one layer, one kind and one formula at a time, to compare the stack with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.fusers.c2c import Fuser, FuserConfig

GOLDEN = Path(__file__).parents[1] / "golden"
FUSERS = ("same_tokenizer", "same_tokenizer_depth4", "cross_tokenizer")
KINDS = ("key", "value")


def small_config(**changes: Any) -> FuserConfig:
    values: dict[str, Any] = {
        "sharer_heads": 2,
        "sharer_head_dim": 3,
        "receiver_heads": 2,
        "receiver_head_dim": 5,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "num_layers": 3,
        "layer_map": ((0, 0), (1, 0), (2, 1)),
    }
    return FuserConfig(**{**values, **changes})


def random_fuser(seed: int = 0, **changes: Any) -> Fuser:
    torch.manual_seed(seed)
    fuser = Fuser(small_config(**changes))
    with torch.no_grad():
        for value in fuser.parameters():
            value.add_(0.1 * torch.randn_like(value))
        signs = torch.tensor([1.0, -1.0]).repeat(fuser.layers)
        fuser.gate_logit.copy_(signs * (0.5 + torch.rand(2 * fuser.layers)))
    return fuser.eval()


def random_input(fuser: Fuser, *tokens: int, entries: int | None = None) -> tuple[Tensor, Tensor]:
    count = 2 * fuser.layers if entries is None else entries
    return torch.randn(count, *tokens, fuser.config.sharer_dim), torch.randn(count, *tokens, fuser.config.receiver_dim)


def read_official(folder: Path) -> list[dict[str, Tensor]]:
    layers = json.loads((folder / "projector_config.json").read_text())["0"]["1"]
    files = [layers[layer][0][1] for layer in sorted(layers, key=int)]
    return [torch.load(folder / f"projector_{index}.pt", weights_only=True) for index in files]


def golden_prompts(name: str, file: str) -> dict[str, dict[str, Any]]:
    content = json.loads((GOLDEN / name / f"{file}.json").read_text(encoding="utf-8"))
    return {prompt["name"]: prompt for prompt in content["prompts"]}


def project(state: dict[str, Tensor], kind: str, sharer: Tensor, receiver: Tensor) -> Tensor:
    """Returns weight * delta of one token, before the gate."""
    hidden = _linear(state, f"{kind}_in", torch.cat([sharer, receiver]))
    hidden = _ffn(state, f"{kind}_mlp1.blocks.0", hidden)
    scores = _linear(state, f"{kind}_scalar_head", _ffn(state, f"{kind}_scalar_mlp2.blocks.0", hidden))
    depth = sum(name.startswith(f"{kind}_proj_mlp2") and name.endswith("norm.weight") for name in state)
    for block in range(depth):
        hidden = _ffn(state, f"{kind}_proj_mlp2.blocks.{block}", hidden)
    delta = _linear(state, f"{kind}_proj_out", hidden).reshape(len(scores), -1)
    return torch.stack([torch.sigmoid(score) * head for score, head in zip(scores, delta, strict=True)]).flatten()


def fused_delta(states: list[dict[str, Tensor]], sharer: Tensor, receiver: Tensor) -> Tensor:
    """Returns what evaluation adds, ``[2 * layers, tokens, dim]``, token by token with hard gates."""
    added = torch.zeros_like(receiver)
    for entry in range(len(receiver)):
        kind, state = KINDS[entry // len(states)], states[entry % len(states)]
        if float(state[f"{kind}_gate_logit"]) <= 0:
            continue
        for token in range(receiver.shape[1]):
            added[entry, token] = project(state, kind, sharer[entry, token], receiver[entry, token])
    return added


def _linear(state: dict[str, Tensor], name: str, value: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ value + state[f"{name}.bias"]


def _ffn(state: dict[str, Tensor], name: str, value: Tensor) -> Tensor:
    normed = value / torch.sqrt((value**2).mean() + 1e-6) * state[f"{name}.norm.weight"]
    inner = state[f"{name}.w1.weight"] @ normed
    inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    return value + state[f"{name}.w2.weight"] @ inner
