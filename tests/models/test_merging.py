"""Adapters of every kind answer as peft's own merge does, with the words that they bring, or are refused by a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from harness.errors import UserError
from harness.models.chat import render, user_turn
from harness.models.lm import LM
from harness.models.loading import load
from tests.support.tiny import random_lm, tokenizer

IDS = torch.arange(5, 45)[None]
OWN = "{% for m in messages %}### {{ m['content'] }}\n{% endfor %}"
Q = ["q_proj"]


def base_on_disk(folder: Path, **changes: Any) -> Path:
    lm = random_lm("llama", **changes)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(base: Path, folder: Path, *, rows: int | None = None, **settings: Any) -> Path:
    """An adapter that does something, trained nowhere."""
    model = plain(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(3)
    with torch.no_grad():
        for value in peft.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))
    peft.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def loaded(folder: Path) -> LM:
    return load(str(folder), device="cpu", dtype="float32")


KINDS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both saved whole": {"target_modules": Q, "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding saved whole": {"target_modules": Q, "modules_to_save": ["embed_tokens"]},
    "single tokens": {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [7, 8]}},
    "biases of its own": {"target_modules": Q, "lora_bias": True},
    "weight decomposed": {"target_modules": Q, "use_dora": True},
    "rank stabilised": {"target_modules": Q, "use_rslora": True},
    "ranks by module": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}},
    "started from the weights": {"target_modules": Q, "init_lora_weights": "pissa"},
    "single parameters": {"target_modules": Q, "target_parameters": ["mlp.gate_proj.weight"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_answers_as_in_peft(tmp_path: Path, kind: str, tied: bool) -> None:
    base = base_on_disk(tmp_path / "base", tie_word_embeddings=tied)
    folder = adapted(base, tmp_path / "adapter", **KINDS[kind])
    live = logits(PeftModel.from_pretrained(plain(base), folder))
    assert not torch.allclose(live, logits(plain(base)), atol=1e-2)
    torch.testing.assert_close(logits(loaded(folder).model), live, atol=1e-4, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_may_bring_a_grown_vocabulary(tmp_path: Path) -> None:
    base = base_on_disk(tmp_path / "base", tie_word_embeddings=False)
    words = tokenizer()
    words.add_tokens(["<|new|>"], special_tokens=True)
    rows = len(words)
    whole = {"target_modules": Q, "modules_to_save": ["embed_tokens", "lm_head"]}
    folder = adapted(base, tmp_path / "adapter", rows=rows, **whole)
    words.save_pretrained(folder)
    lm = loaded(folder)
    assert lm.tokenizer("<|new|>", add_special_tokens=False)["input_ids"] == [rows - 1]
    resized = plain(base)
    resized.resize_token_embeddings(rows)
    expected = logits(PeftModel.from_pretrained(resized, folder).merge_and_unload())
    assert expected.shape[-1] == rows
    torch.testing.assert_close(logits(lm.model), expected, atol=1e-5, rtol=1e-5)
    state = load_file(folder / "adapter_model.safetensors")
    save_file({n: v for n, v in state.items() if "lm_head" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=rf"grew the vocabulary from {rows - 1} to {rows} rows.*'lm_head'"):
        loaded(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [True, False])
def test_the_words_of_an_adapter_are_its_own(tmp_path: Path, whole: bool) -> None:
    base = base_on_disk(tmp_path / "base")
    folder = adapted(base, tmp_path / "adapter", target_modules=Q)
    assert render(loaded(folder), user_turn("Sky?")) == render(loaded(base), user_turn("Sky?"))
    if whole:
        words = tokenizer()
        words.chat_template = OWN
        words.save_pretrained(folder)
    else:
        (folder / "chat_template.jinja").write_text(OWN)
    assert render(loaded(folder), user_turn("Sky?")) == "### Sky?\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("alora_invocation_tokens", [1, 2], "sets alora_invocation_tokens, which cannot be merged"),
        ("use_qalora", True, "sets use_qalora"),
        ("layer_replication", [[0, 2], [1, 3]], "sets layer_replication"),
        ("a_field_of_tomorrow", True, "sets a_field_of_tomorrow"),
        ("init_lora_weights", "pissa_niter_16", "init_lora_weights 'pissa_niter_16'"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_its_name(tmp_path: Path, setting: str, value: Any, words: str) -> None:
    folder = adapted(base_on_disk(tmp_path / "base"), tmp_path / "adapter", target_modules=Q)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(UserError, match=words):
        loaded(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_is_a_model_or_an_adapter(tmp_path: Path) -> None:
    base = base_on_disk(tmp_path / "base")
    folder = adapted(base, tmp_path / "adapter", target_modules=Q)
    plain(base).save_pretrained(folder)
    with pytest.raises(UserError, match="an adapter and the weights of a model"):
        loaded(folder)
