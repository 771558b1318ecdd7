from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.fusers.checkpoint import load
from harness.fusers.interface import Entry
from tests.support.fuser_reference import GOLDEN, KINDS, golden_prompts

PAIR = GOLDEN / "same_tokenizer"


def _caches(ids: list[int]) -> list[dict[str, list[Tensor]]]:
    """Returns the receiver's and the sharer's K and V by layer, each ``[tokens, heads * head_dim]``."""
    found = []
    for role in ("receiver", "sharer"):
        model = AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=torch.float32).eval()
        layers = model(torch.tensor([ids]), use_cache=True).past_key_values.layers
        found.append({"key": [_flat(x.keys) for x in layers], "value": [_flat(x.values) for x in layers]})
    return found


def _flat(cache: Tensor) -> Tensor:
    return cache[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("name", ["same_tokenizer", "same_tokenizer_depth4"])
@torch.inference_mode()
def test_the_fused_cache_equals_the_original(name: str) -> None:
    prompt = golden_prompts(name, "golden")["short"]
    receiver, sharer = _caches(prompt["receiver_ids"][:-1])
    fuser = load(GOLDEN / name / "fuser")
    entries = fuser.sources()

    def pick(cache: dict[str, list[Tensor]], layer: str) -> Tensor:
        return torch.stack([cache[KINDS[entry.kind]][getattr(entry, layer)] for entry in entries])

    before = pick(receiver, "receiver_layer")
    after = before + fuser(pick(sharer, "sharer_layer"), before)
    tensors = load_file(GOLDEN / name / "golden.safetensors")
    for entry, row, clean in zip(entries, after, before, strict=True):
        expected = _flat(tensors[_name(entry)])[:-1]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
        is_open = bool(fuser.gates()[entry.kind, entry.receiver_layer] > 0)
        assert torch.equal(row, clean) is not is_open


def _name(entry: Entry) -> str:
    return f"short.kv.{entry.receiver_layer}.{KINDS[entry.kind]}"
