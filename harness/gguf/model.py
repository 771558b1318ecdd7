"""Weights and tokenizer of a GGUF file, through transformers' reader, with what that reader passes over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoint import Loaded
from harness.gguf import positions
from harness.gguf.file import GgufFile, opened
from harness.gguf.settings import apply_settings, check_keys
from harness.gguf.words import read_tokenizer, stops_of
from harness.weights_check import UnfitCheckpoint, check_loaded, named

# Keys that name a file, its origin and its making; none of them changes an answer.
_DESCRIBES = re.compile(r"^(general|GGUF|split|quantize|imatrix|tokenizer\.chat_template$)")
_OF_TOKENIZER = "model pre tokens merges scores token_type bos_token_id eos_token_id unknown_token_id padding_token_id "
_OF_TOKENIZER += "eot_token_id eom_token_id add_bos_token add_eos_token add_space_prefix precompiled_charsmap"
_READ = {f"tokenizer.ggml.{name}" for name in _OF_TOKENIZER.split()}
_UNREADABLE = {"gpt-oss"}  # transformers looks for other tensors, and reads the scaling of positions wrongly
_STACKED = re.compile(r"ffn_(gate|up|down|gate_up)(_exps|_projs)\.weight$")


def read_gguf(path: Path, options: Mapping[str, Any]) -> Loaded:
    """Loads a GGUF file.

    Args:
        path: the file.
        options: for transformers' ``from_pretrained``.

    Raises:
        UnfitCheckpoint: names a key or tensor that cannot be applied, or one that is missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    file = opened(path)
    if file.architecture in _UNREADABLE:
        raise UnfitCheckpoint(
            f"its architecture {file.architecture} is one whose files transformers does not read as llama.cpp writes "
            "them; load the original checkpoint (safetensors)"
        )
    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    check_keys(file)
    tokenizer, notes = read_tokenizer(file)
    config = AutoConfig.from_pretrained(**place)
    notes |= apply_settings(config, file)
    model, report = AutoModelForCausalLM.from_pretrained(
        **place,
        config=config,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        **options,
    )
    _check_read(model, file)
    check_loaded(model, report, {}, claimed=True)
    positions.scale_frequencies(model, file)
    for value in model.parameters():  # buffers keep their precision: rotary frequencies do not survive 16 bits
        value.data = value.data.to(options["dtype"])
    _tie(model)
    return Loaded(model, tokenizer, stops_of(file, tokenizer), {**notes, **_unread(file), "weights": repr(path.name)})


def _check_read(model: Any, file: GgufFile) -> None:
    """Whether transformers read every tensor; its older reader passes over the ones that it does not know."""
    import gguf
    from transformers.integrations.gguf import is_gguf_arch_supported

    codes = [code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == file.architecture]
    if is_gguf_arch_supported(file.architecture) or not codes:
        return  # its newer reader reports what is left over
    names = gguf.get_tensor_name_map(codes[0], model.config.num_hidden_layers)
    known = set()
    for name in (*model.state_dict(), *model.base_model.state_dict()):
        stem, dot, ending = name.rpartition(".")
        known.add(f"{names.get_name(stem)}{dot}{ending}")
    spare = [
        name
        for name in file.tensors
        if name not in known and name not in positions.TENSORS and not _STACKED.search(name)
    ]
    if spare:
        raise UnfitCheckpoint(
            f"{len(spare)} tensors of the file are left over: {named(spare)}; its keys describe another model than its "
            "tensors, so convert it again"
        )


def _unread(file: GgufFile) -> dict[str, str]:
    known = f"{file.architecture}."
    names = [key for key in file.keys if not (key.startswith(known) or key in _READ or _DESCRIBES.match(key))]
    return {"unread_keys": ", ".join(sorted(names))} if names else {}


def _tie(model: Any) -> None:
    if not model.config.get_text_config().tie_word_embeddings:
        return
    # Some files carry the output matrix apart, quantised differently from the embedding it is tied to.
    model.tie_weights()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        head.weight = embedding.weight
