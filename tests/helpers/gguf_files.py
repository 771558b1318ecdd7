"""Writes a model of ours as a GGUF file, unquantised, so that loading it can be compared with the original."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

import gguf
import torch

from harness.models import LM

_TOKEN, _CONTROL = 1, 3


def write_gguf(
    path: Path, lm: LM, *, separate_output: torch.Tensor | None = None, without: Container[str] = ()
) -> None:
    """Writes a Qwen2-like model with its tokenizer.

    Args:
        path: the file.
        lm: the model; its vocabulary must be a byte-level BPE.
        separate_output: an output matrix of its own, for a model whose output is tied to its embedding.
        without: names of parameters to leave out.
    """
    writer = gguf.GGUFWriter(path, "qwen2")
    _write_config(writer, lm)
    _write_tokenizer(writer, lm)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, lm.n_layers)
    for name, value in lm.model.named_parameters():
        if name in without:
            continue
        stem, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", value.numpy())
    if separate_output is not None:
        writer.add_tensor("output.weight", separate_output.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: gguf.GGUFWriter, lm: LM) -> None:
    config = lm.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, lm: LM) -> None:
    spoken = lm.tokenizer
    words = [spoken.convert_ids_to_tokens(i) for i in range(len(spoken))]
    added = set(spoken.get_added_vocab())
    merges = json.loads(spoken.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([_CONTROL if word in added else _TOKEN for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(spoken.eos_token_id)
    writer.add_pad_token_id(spoken.pad_token_id)
    writer.add_chat_template(spoken.chat_template)
