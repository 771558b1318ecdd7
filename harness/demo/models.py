"""The two small architectures of the default pair, as untrained models and from their folders.

Guarantees plain transformers models of two families with different depths and head sizes, so that the pair
takes the same paths through the harness as real ones do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def receiver_model(tokenizer: Any) -> Any:
    """The untrained receiver: Qwen3's architecture, three layers."""
    return qwen3(tokenizer, 3)


def qwen3(tokenizer: Any, layers: int) -> Any:
    """An untrained model of Qwen3's architecture with so many layers and two KV heads of 32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, head_dim=32, **_shape(tokenizer)))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(2.0)  # sharper attention at the start: look-ups form sooner
    return model


def sharer_model(tokenizer: Any) -> Any:
    """The untrained sharer: Llama's architecture with biases in attention, five layers, two KV heads of 16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, attention_bias=True, **_shape(tokenizer)))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(2.0)  # Llama has no query norm: the same head start by hand
    return model


def load_model(folder: Path) -> Any:
    """Loads one model of a pair for evaluation."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def _shape(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,  # wide: from a narrow start the look-ups do not form at all
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
