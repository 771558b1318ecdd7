"""Tokenizers that merge words with the space before them, and that open or close texts by themselves."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.models.reference import Reference

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPACED = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Answer: {% endif %}"
)
_TEXT = "Answer: Which colour is the sky over the sea? The correct answer is blue, red or green. A B C D"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>")


@functools.cache
def _raw() -> str:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[*_SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([_TEXT] * 20, trainer)
    return str(raw.to_str())


def words(template: str | None = CHATML, *, bos: bool = False, opens: bool = False, closes: bool = False) -> Any:
    """A tokenizer that has a BOS token, puts it before every text, or an EOS token behind every text."""
    raw = Tokenizer.from_str(_raw())
    pieces = [*(["<s>"] if opens else []), "$A", *(["</s>"] if closes else [])]
    special = [(name, raw.token_to_id(name)) for name in ("<s>", "</s>")]
    raw.post_processor = processors.TemplateProcessing(single=" ".join(pieces), special_tokens=special)
    spoken = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="</s>" if closes else "<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<s>" if bos or opens else None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    spoken.chat_template = template
    return spoken


@dataclass(frozen=True, eq=False)
class Speaking:
    """Reads prompts and has no weights."""

    tokenizer: Any
    reference: Reference = field(default_factory=lambda: Reference("speaking", "speaking"))
    max_length: int = 2048


def speaking(tokenizer: Any) -> Any:
    """Somebody who reads prompts through this tokenizer."""
    return Speaking(tokenizer)


def model_folder(folder: Path, tokenizer: Any, **changes: Any) -> str:
    """Writes a tiny random model that speaks through this tokenizer; returns its path."""
    shape: dict[str, Any] = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.25},
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
        **{"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **changes},
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
