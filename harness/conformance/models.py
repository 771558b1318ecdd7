"""Random models of a few kilobytes and questions for them, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.fusers.c2c import Fuser
from harness.fusers.layer_mapping import config_for
from harness.models.lm import LM, kv_shape
from harness.models.loading import wrap

FACTS = ("zinc", "iron", "lead", "gold", "opal", "jade", "coal")
_SPECIAL = {"pad": "<|pad|>", "unk": "<|unk|>", "eos": "<|end|>"}
_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
doc_to_text: "Box {{{{number}}}} : is it a metal or a stone ? {{% for c in choices %}}{{{{labels[loop.index0]}}}}. \
{{{{c}}}} {{% endfor %}}"
doc_to_target: key
{form}
metadata:
  version: 1
  {views}
"""
_FORMS = {
    "options": "output_type: multiple_choice\ndoc_to_choice: labels",
    "text": "output_type: generate_until\ngeneration_kwargs: {until: [], do_sample: false, max_gen_toks: 6}\n"
    "metric_list: [{metric: exact_match}]",
}


def tokenizer() -> Any:
    """A tokenizer of bytes with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL.values(), *alphabet])}
    bytes_ = Tokenizer(models.BPE(vocabulary, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    named = {f"{role}_token": token for role, token in _SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=bytes_, chat_template=_TEMPLATE, name_or_path="bytes", **named)


def tiny_lm(seed: int) -> LM:
    """A Qwen3 model of random weights, large enough that its answers depend on its prompt."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(seed)
    spoken = tokenizer()
    config = Qwen3Config(
        vocab_size=len(spoken),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        initializer_range=0.25,
        bos_token_id=None,
        eos_token_id=spoken.eos_token_id,
        pad_token_id=spoken.pad_token_id,
    )
    return wrap(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), spoken)


def random_fuser(receiver: LM, sharer: LM, *, seed: int = 0, gates: Sequence[bool] | None = None) -> Fuser:
    """A fuser whose deltas are as large as what they are added to; all gates open unless given, K first."""
    torch.manual_seed(seed)
    ours, theirs = kv_shape(receiver.config), kv_shape(sharer.config)
    fuser = Fuser(config_for(ours, theirs, hidden_dim=24, intermediate_dim=32, num_layers=3))
    is_open = torch.tensor([True] * (2 * fuser.layers) if gates is None else list(gates))
    with torch.no_grad():
        for value in fuser.parameters():
            value.add_(0.2 * torch.randn_like(value))
        fuser.gate_logit.copy_(torch.where(is_open, 1.0, -1.0))
    return fuser.eval()


def write_task(folder: Path, form: str, facts: Sequence[str] = FACTS, views: bool = False) -> Path:
    """Writes a task of one question a fact and returns its YAML file.

    Args:
        folder: of the file and its rows.
        form: ``options`` or ``text``.
        facts: one a question.
        views: the sharer, and nobody else, reads the facts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    choices, labels = ["a metal", "a stone"], ["A", "B"]
    rows = [
        {"id": f"q{n}", "number": "1" * (n + 1), "question": f"Box {'1' * (n + 1)} : is it a metal or a stone ?"}
        | {"fact": fact, "choices": choices, "labels": labels, "key": "A"}
        for n, fact in enumerate(facts)
    ]
    data, name = folder / "rows.jsonl", f"conformance_{form}"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    context = 'sharer_context: "The box holds {{fact}} ."' if views else "about: boxes"
    text = _TASK.format(name=name, data=data, cache=folder / "cache", form=_FORMS[form], views=context)
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    return folder / "task.yaml"
