"""Models that are given as objects: what identifies them, and which of them can be read as they are.

No name pins what is in memory, so its reference carries a digest of its weights, configuration and tokenizer, which
also is its fingerprint in records: other weights never stand under one name. The caller's objects stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import UserError
from harness.models.checkpoint import check_ids
from harness.models.lm import LM, check_placed, shards_of
from harness.models.loading import wrap
from harness.models.reference import Reference
from harness.paths import locate
from harness.records.schema import IN_MEMORY

_BLOCK_ELEMENTS = 1 << 24

# What a configuration holds beside the model: where it was, and who wrote it.
_NO_MODEL = ("_name_or_path", "transformers_version")

_TOKENIZER = ("chat_template", "special_tokens_map", "add_bos_token", "add_eos_token", "split_special_tokens")


def lm_of(model: Any, tokenizer: Any) -> LM:
    """Makes an `LM` of a transformers model and its tokenizer, with a reference that pins both.

    Raises:
        UserError: they are not what is needed, or cannot be read as they are.
    """
    from transformers import PreTrainedModel

    inner = getattr(model, "_orig_mod", model)  # of a compiled model
    if not isinstance(inner, PreTrainedModel):
        raise UserError(
            f"The model is a {type(inner).__name__}; give a causal model of transformers (one with adapters as what "
            "its merge_and_unload() returns, one inside a trainer's wrapper by itself)."
        )
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise UserError(f"The tokenizer is a {type(tokenizer).__name__}; give the pair (model, tokenizer).")
    if why := _unreadable(inner):
        raise UserError(f"The {type(inner).__name__} in memory {why}.")
    lm = wrap(inner, tokenizer)
    try:
        check_placed(lm.model)
        check_ids(lm.model, lm.tokenizer)
    except ValueError as error:
        raise UserError(f"The {type(inner).__name__} in memory cannot be used: {error}.") from error
    return pinned(lm)


def pinned(lm: LM) -> LM:
    """Returns a loaded model under a reference that pins what it holds now, wherever it came from."""
    beside = {
        "architecture": type(lm.model).__name__,
        "config": {name: value for name, value in lm.model.config.to_dict().items() if name not in _NO_MODEL},
        "stop_ids": sorted(lm.stop_ids),
        "pad_id": lm.pad_id,
        "tokenizer": _tokenizer(lm.tokenizer),
    }
    digest = digest_of(lm.model, beside)
    known = str(getattr(lm.model.config, "_name_or_path", ""))
    text = reference_of(known or type(lm.model).__name__, digest)
    return replace(lm, reference=Reference(text, "", digest=digest))


def reference_of(name: str, digest: str) -> str:
    """Writes the reference of something in memory: a name for people, and the beginning of its digest."""
    short = Path(name).name if locate(name).exists() else name.partition("@")[0]
    return f"{IN_MEMORY}{short}@{digest[:12]}"


def digest_of(module: nn.Module, beside: Mapping[str, Any]) -> str:
    """Returns the sha256 over a module's state, tensor by tensor, and what describes it.

    Raises:
        UserError: a tensor is not in memory.
    """
    digest = hashlib.sha256(json.dumps(dict(beside), sort_keys=True, default=str).encode())
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}\0{value!r}\n".encode())
            continue
        if value.is_meta:
            raise UserError(f"{type(module).__name__}: {name} is not in memory; give the model's folder or name.")
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\n".encode())
        for part in value.detach().reshape(-1).split(_BLOCK_ELEMENTS):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _unreadable(model: Any) -> str | None:
    """Says why a model cannot be read beside the caller, who goes on using it, and what to do; None where it can."""
    if not model.can_generate():
        return "predicts no tokens; give its causal form, as AutoModelForCausalLM loads it"
    if getattr(model, "_hf_peft_config_loaded", False):
        return "has adapters that are not merged; give its folder and the adapter's as peft"
    if getattr(model, "hf_quantizer", None) is not None:
        return "holds quantised weights; give its folder or name"
    return "is split over several processes; give its folder or name" if shards_of(model) > 1 else None


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Everything by which texts become tokens; not how the last caller padded and cut them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    own = {name: getattr(tokenizer, name, None) for name in _TOKENIZER}
    kept = {name: value for name, value in rules.items() if backend is None or name not in ("padding", "truncation")}
    return {"class": type(tokenizer).__name__, "rules": kept, **own}
