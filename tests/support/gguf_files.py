"""Writes a model of ours as a GGUF file, unquantised, so that loading it can be compared with the original."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from harness.models.lm import LM

_TOKEN, _CONTROL = 1, 3
_ARCHITECTURES = {"gemma3_text": "gemma3"}  # where llama.cpp has another name than transformers


def write_gguf(
    path: Path,
    lm: LM,
    *,
    separate_output: torch.Tensor | None = None,
    without: Container[str] = (),
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    pre: str | None = "qwen2",
) -> None:
    """Writes a model with its tokenizer, laid out as llama.cpp's converter does.

    Args:
        path: the file.
        lm: the model; its vocabulary must be a byte-level BPE.
        separate_output: an output matrix of its own, for a model whose output is tied to its embedding.
        without: names of parameters to leave out.
        keys: further keys, or others in place of the usual; those of the model begin with a dot; None leaves one out.
        tensors: further tensors.
        pre: how text is split into words; None says nothing of it.
    """
    kind = lm.config.model_type
    architecture = _ARCHITECTURES.get(kind, kind)
    writer = gguf.GGUFWriter(path, architecture)
    written = {**_config_keys(lm), **(keys or {})}
    for name, value in written.items():
        if value is not None:
            _add(writer, f"{architecture}{name}" if name.startswith(".") else name, value)
    _write_tokenizer(writer, lm, pre)
    code = next(code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(code, lm.n_layers)
    for name, value in lm.model.named_parameters():
        if name not in without:
            stem, _, ending = name.rpartition(".")
            writer.add_tensor(f"{names.get_name(stem)}.{ending}", np.ascontiguousarray(_laid_out(lm, name, value)))
    if separate_output is not None:
        writer.add_tensor("output.weight", separate_output.numpy())
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
        return
    add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
    add[type(value)](name, value)


def _config_keys(lm: LM) -> dict[str, Any]:
    config = lm.config
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    keys = {
        ".context_length": config.max_position_embeddings,
        ".block_count": config.num_hidden_layers,
        ".embedding_length": config.hidden_size,
        ".feed_forward_length": config.intermediate_size,
        ".attention.head_count": config.num_attention_heads,
        ".attention.head_count_kv": config.num_key_value_heads,
        ".rope.freq_base": float(rope["rope_theta"]),
        ".attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        ".vocab_size": config.vocab_size,
    }
    if getattr(config, "head_dim", None):
        keys |= {".attention.key_length": config.head_dim, ".attention.value_length": config.head_dim}
    if config.model_type == "llama":
        keys[".rope.dimension_count"] = config.head_dim
    if config.model_type == "gemma3_text":
        keys[".attention.sliding_window"] = config.sliding_window
    return keys


def _laid_out(lm: LM, name: str, value: torch.Tensor) -> Any:
    """A tensor as the converter writes it: Llama's rotated halves interleaved, Gemma's norms moved by one."""
    array, config = value.numpy(), lm.config
    if config.model_type == "gemma3_text" and "norm" in name:
        return array + 1
    if config.model_type != "llama" or not any(part in name for part in ("q_proj", "k_proj")):
        return array
    heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _write_tokenizer(writer: gguf.GGUFWriter, lm: LM, pre: str | None) -> None:
    spoken = lm.tokenizer
    words = [spoken.convert_ids_to_tokens(i) for i in range(len(spoken))]
    added = set(spoken.get_added_vocab())
    merges = json.loads(spoken.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([_CONTROL if word in added else _TOKEN for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(spoken.eos_token_id)
    writer.add_pad_token_id(spoken.pad_token_id)
    writer.add_chat_template(spoken.chat_template)
