"""Loads a language model from a reference: a hub id with optional ``@revision``, a folder, or a GGUF file.

Guarantees that nothing of the checkpoint but its weights and tokenizer takes part: sampling settings are dropped,
remote code runs only where the user asked for it, and weights are read as data. Cache layers that are not plain keys
and values are recognised from the configuration.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from harness.errors import UserError, unknown
from harness.models.checkpoint import (
    CONFIG,
    Loaded,
    UnfitCheckpoint,
    adapters_tokenizer,
    check_ids,
    keep_pad_inside,
    read_checkpoint,
    settings_of,
)
from harness.models.gguf import read_gguf
from harness.models.grouped_attention import GROUPED, register
from harness.models.hub import MODEL_FILES, OTHER_FILES, Commits, Wanted
from harness.models.lm import (
    DTYPES,
    LM,
    DeviceMap,
    cache_argument,
    check_placed,
    entry_device,
    multiply_rows_as_vectors,
    placed_by,
    with_own_modules,
)
from harness.models.lora import is_adapter, merge_adapter
from harness.models.reference import Reference, _adapted, parse_reference
from harness.paths import BUILT_IN_TEMPLATES

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def unusual_cache(config: Any) -> str | None:
    """Says what the layers of a model keep besides plain keys and values; None where that is all.

    Args:
        config: of the text part.
    """
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    except Exception as error:
        return f"transformers makes no cache for it ({type(error).__name__})"
    other = sorted(kind.__name__ for kind in kinds if kind not in _PLAIN)
    return f"its cache is not plain keys and values but {' and '.join(other)}" if other else None


EAGER = "use --attention eager"

PLAIN_CACHE = "choose a model whose layers keep plain keys and values of one shape"

ATTENTION = ("sdpa", "eager", GROUPED, "flash_attention_2")


def fetch_reference(ref: Reference, commits: Commits | None = None) -> Reference:
    """Fetches what a reference names on the hub.

    Args:
        ref: a folder is returned as it is.
        commits: of the run, so that one name stands for one commit all through it.

    Returns:
        The reference with a local folder and the commit that it is of.

    Raises:
        UserError: something cannot be had at its revision.
    """
    if ref.repo or ref.local:
        return ref
    commits = commits or Commits()
    try:
        found = commits.snapshot(ref.source, ref.revision, _wanted(ref))
        if not ref.gguf_file and not is_adapter(found.folder) and not any(found.folder.glob("*.safetensors")):
            found = commits.snapshot(ref.source, found.commit, Wanted((*MODEL_FILES, "*.bin"), OTHER_FILES))
    except UserError as error:
        raise UserError(f"Model {ref.text!r} cannot be loaded: {error}") from error
    if ref.adapter is None and is_adapter(found.folder):
        return replace(
            fetch_reference(_adapted(ref.text, found.folder, ref.base), commits), adapter_commit=found.commit
        )
    return replace(ref, source=str(found.folder), repo=found.repo, commit=found.commit)


def _wanted(ref: Reference) -> Wanted:
    return Wanted((ref.gguf_file,)) if ref.gguf_file else Wanted(MODEL_FILES, OTHER_FILES)


def pick_device(device: str) -> torch.device:
    """Returns the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: it is another kind of device, or not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", device)
    if named is None:
        raise UserError(f"Device {device!r} is unknown; allowed: auto, cpu, cuda, cuda:N.")
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"Device {device!r} was asked for but no CUDA device is here; use --device cpu or auto.")
    count, number = torch.cuda.device_count(), named[1]
    if number is not None and int(number) >= count:
        here = "only cuda:0 is" if count == 1 else f"cuda:0 to cuda:{count - 1} are"
        raise UserError(f"Device {device!r} was asked for but {here} here; use --device cuda or auto.")
    return torch.device("cuda") if number is None else torch.device("cuda", int(number))


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Returns the torch dtype; ``auto`` is bfloat16 on GPU and float32 on CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, ["auto", *DTYPES])
    return DTYPES[dtype]


def load(
    reference: str | Reference,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    tensor_parallel: bool = False,
) -> LM:
    """Loads a model and its tokenizer for inference.

    Args:
        reference: see `parse_reference`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` or a name in `DTYPES`.
        attention: a name in `ATTENTION`.
        chat_template: a Jinja file, or ``simple`` for the harness's own; None keeps the tokenizer's.
        trust_remote_code: run Python that the checkpoint brings. Off unless the user writes it.
        device_map: handed to transformers, for a model larger than one device; see `placed_by`.
        tensor_parallel: split every layer over the processes of this run.

    Raises:
        UserError: the reference, a flag or the files are not usable.
    """
    if attention not in ATTENTION:
        raise unknown("attention implementation", attention, ATTENTION)
    if attention == GROUPED:
        register()
    ref = fetch_reference(parse_reference(reference) if isinstance(reference, str) else reference)
    where = pick_device(device)
    options: dict[str, Any] = {"dtype": pick_dtype(dtype, where), "attn_implementation": attention}
    placed = placed_by(device_map, tensor_parallel)
    with _explained(ref, attention, trust_remote_code):
        loaded = _read(ref, options | placed, trust_remote_code)
        check_placed(loaded.model)
    model = loaded.model if ref.adapter is None else merge_adapter(loaded.model, Path(ref.adapter))
    lm = _lm(model if placed else model.to(where), loaded.tokenizer, ref, read_template(chat_template), loaded)
    with _explained(ref, attention, trust_remote_code):
        check_ids(lm.model, lm.tokenizer)
    return lm


@contextmanager
def _explained(ref: Reference, attention: str, trust_remote_code: bool) -> Iterator[None]:
    try:
        yield
    except UnfitCheckpoint as error:
        raise UserError(f"Model {ref.text!r} cannot be loaded: {error}.") from error
    except Exception as error:  # what reads the files raises every kind, tokenizers even the bare class
        raise UserError(f"Model {ref.text!r} {_reason(error, ref, attention, trust_remote_code)}") from error


def wrap(model: Any, tokenizer: Any, reference: Reference | None = None, chat_template: str | None = None) -> LM:
    """Makes an `LM` of a model and a tokenizer that are already in memory; both stay as they are.

    Args:
        model: the model; the `LM` has modules of its own over the same weights.
        tokenizer: its tokenizer.
        reference: where both come from.
        chat_template: a Jinja text in place of the tokenizer's own.
    """
    return _lm(with_own_modules(model), copy.deepcopy(tokenizer), reference, chat_template)


def _lm(
    model: Any, tokenizer: Any, reference: Reference | None, chat_template: str | None, files: Loaded | None = None
) -> LM:
    """Makes an `LM` of a model and a tokenizer that nobody else holds; `files` is what their checkpoint says beyond."""
    model.eval().requires_grad_(False)
    drop_sampling(model)
    multiply_rows_as_vectors(model)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    parameter = next(model.parameters())
    notes = dict(files.notes) if files is not None else {}
    notes |= keep_pad_inside(model, tokenizer)
    stop_ids = _stop_ids(model, tokenizer) | (files.stop_ids if files is not None else frozenset())
    pad_id = tokenizer.pad_token_id
    return LM(
        model=model,
        tokenizer=tokenizer,
        reference=reference or Reference("in-memory", str(getattr(model.config, "_name_or_path", ""))),
        device=entry_device(model),
        dtype=parameter.dtype,
        stop_ids=stop_ids,
        pad_id=pad_id if pad_id is not None else min(stop_ids, default=0),
        max_length=int(getattr(model.config.get_text_config(), "max_position_embeddings", 2**31 - 1)),
        cache_argument=cache_argument(model.__class__),
        notes=notes,
    )


def read_template(chat_template: str | None) -> str | None:
    """Returns the text of a chat template given by path or by the name of one of ours."""
    if chat_template is None:
        return None
    own = BUILT_IN_TEMPLATES / f"{chat_template}.jinja"
    path = own if own.is_file() and os.sep not in chat_template else Path(chat_template).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in BUILT_IN_TEMPLATES.glob("*.jinja")))
        raise UserError(f"Chat template {chat_template!r}: no such file; give a Jinja file or one of: {names}.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"Chat template {chat_template!r} cannot be read ({error}); give a Jinja file.") from error


def _read(ref: Reference, options: dict[str, Any], trust_remote_code: bool) -> Loaded:
    if ref.gguf_file is not None:
        loaded = read_gguf(Path(ref.source) / ref.gguf_file, options)
    else:
        loaded = read_checkpoint(ref.source, ref.revision or "main", options, trust_remote_code)
    if ref.adapter is None:
        return loaded
    return replace(loaded, tokenizer=adapters_tokenizer(Path(ref.adapter), loaded.tokenizer, trust_remote_code))


def drop_sampling(model: Any) -> None:
    """Forgets every generation setting of a checkpoint but its special tokens: a repetition penalty, for instance."""
    from transformers import GenerationConfig

    kept = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=kept.eos_token_id, pad_token_id=kept.pad_token_id, bos_token_id=kept.bos_token_id
    )


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    listed = eos if isinstance(eos, list) else [eos]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def _reason(error: Exception, ref: Reference, attention: str, trust_remote_code: bool) -> str:
    if isinstance(error, KeyError) and (names := settings_of(ref.source, error.args[0] if error.args else None)):
        return (
            f"cannot be loaded: its {CONFIG} sets {' and '.join(names)} to {error}, which transformers does not know."
        )
    text = str(error)
    if "does not support" not in text or ("attention implementation" not in text and "Flash Attention" not in text):
        return f"cannot be loaded: {_one_line(error)}"
    from transformers import AutoConfig

    extra = {"gguf_file": ref.gguf_file} if ref.gguf_file else {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(ref.source, revision=ref.revision or "main", **extra)
    unusual = unusual_cache(config.get_text_config())
    if unusual is not None:
        return f"({config.model_type}) cannot be used: {unusual}; {PLAIN_CACHE}."
    name = text.split(maxsplit=1)[0]
    return f"({config.model_type}) cannot be used: {name} does not go with --attention {attention}; {EAGER}."


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
