"""Loading a language model from one reference syntax: a hub id with optional ``@revision``, a folder, a GGUF file.

Guarantees that nothing of the checkpoint but its weights and tokenizer takes part: sampling settings are
dropped, remote code runs only where the user wrote so, weights are read as data.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from harness.attention import NAME as GROUPED
from harness.attention import register
from harness.errors import UserError, unknown
from harness.merging import base_of, is_adapter, merged
from harness.paths import BUILT_IN_TEMPLATES, located
from harness.placement import DeviceMap, check_placed, entry_device, placed_by
from harness.single_row import multiply_rows_as_vectors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", GROUPED, "flash_attention_2")


@dataclass(frozen=True)
class Reference:
    """Where a model's files are; `adapter` is the folder of what is merged into it."""

    text: str
    source: str
    revision: str | None = None
    gguf_file: str | None = None
    adapter: str | None = None

    @property
    def local(self) -> bool:
        """Whether `source` is a folder of this machine."""
        return Path(self.source).is_dir()


@dataclass(frozen=True, eq=False)
class LM:
    """A causal language model with its tokenizer, ready for inference.

    `eq=False`: two loads of one checkpoint are two models.
    """

    model: Any
    tokenizer: Any
    reference: Reference
    device: torch.device
    dtype: torch.dtype
    stop_ids: frozenset[int]
    pad_id: int
    max_length: int
    cache_argument: str = field(default="cache")

    @property
    def config(self) -> Any:
        """The text part of the model's configuration."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of decoder layers, each with one K and one V."""
        return int(self.config.num_hidden_layers)

    @property
    def spread(self) -> bool:
        """Whether layers may lie on different devices, or are loaded when they are needed."""
        return getattr(self.model, "hf_device_map", None) is not None

    @property
    def window(self) -> int | None:
        """Sliding-window width in tokens, where any layer has one."""
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and "sliding_attention" not in kinds:
            return None
        return getattr(self.config, "sliding_window", None)


def parse_reference(text: str, base: str | None = None) -> Reference:
    """Reads ``hub/id``, ``hub/id@revision``, a folder of a model or an adapter, or a ``.gguf`` file.

    Args:
        text: the reference.
        base: the model under an adapter, in place of the one that the adapter's folder names.

    Raises:
        UserError: a path that does not exist, or text that is none of the three.
    """
    path = located(text)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"Model {text!r}: there is no such GGUF file; give the path of an existing one.")
        return Reference(text, str(path.parent), gguf_file=path.name)
    if text and path.is_dir():
        return _adapted(text, path, base) if is_adapter(path) else Reference(text, str(path))
    name, _, revision = text.partition("@")
    if text.startswith((".", "/", "~")) or name.count("/") > 1 or ".." in name or not name:
        raise UserError(f"Model {text!r}: no such folder; give a folder, a .gguf file or a hub id like 'org/name@rev'.")
    return Reference(text, name, revision or None)


def _adapted(text: str, folder: Path, base: str | None) -> Reference:
    name = base or base_of(folder)
    try:
        found = parse_reference(name)
    except UserError as error:
        raise UserError(f"Adapter {text!r} needs its base model. {error}") from error
    if found.adapter:
        raise UserError(f"Adapter {text!r} stands on {name!r}, which is an adapter itself; give a model as its base.")
    return replace(found, text=text, adapter=str(folder))


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
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    where = pick_device(device)
    options: dict[str, Any] = {"dtype": pick_dtype(dtype, where), "attn_implementation": attention}
    placed = placed_by(device_map, tensor_parallel)
    _check_folder(ref)
    try:
        tokenizer = _load_tokenizer(ref, trust_remote_code)
        model = _load_weights(ref, options | placed, trust_remote_code)
        check_placed(model)
    except Exception as error:  # what reads the files raises every kind, tokenizers even the bare class
        raise UserError(f"Model {ref.text!r} cannot be loaded: {_one_line(error)}") from error
    if ref.adapter is not None:
        model = merged(model, Path(ref.adapter))
    return wrap(model if placed else model.to(where), tokenizer, ref, read_template(chat_template))


def wrap(model: Any, tokenizer: Any, reference: Reference | None = None, chat_template: str | None = None) -> LM:
    """Makes an `LM` of a model and a tokenizer that are already in memory."""
    model.eval().requires_grad_(False)
    drop_sampling(model)
    multiply_rows_as_vectors(model)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    parameter = next(model.parameters())
    stop_ids = _stop_ids(model, tokenizer)
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


@functools.cache
def cache_argument(architecture: Any) -> str:
    """Name of the forward argument that carries the KV-cache: it was renamed within transformers 5."""
    return "cache" if "cache" in inspect.signature(architecture.forward).parameters else "past_key_values"


def _check_folder(ref: Reference) -> None:
    if ref.local and ref.gguf_file is None:
        path = Path(ref.source) / "config.json"
        if not path.is_file():
            raise UserError(
                f"Model folder {ref.source!r} has no config.json; give a folder in the Hugging Face layout."
            )
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"Model folder {ref.source!r}: config.json is not valid JSON ({error}).") from error


def _load_tokenizer(ref: Reference, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    extra = {"gguf_file": ref.gguf_file} if ref.gguf_file else {"trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(ref.source, revision=ref.revision or "main", **extra)
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise ValueError("it has no tokenizer, or one without a vocabulary")  # transformers makes one up and is silent
    return tokenizer


def _load_weights(ref: Reference, options: dict[str, Any], trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        ref.source, output_loading_info=True, **_origin(ref, trust_remote_code), **options
    )
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        # transformers fills what is missing with random numbers and only warns; a score from those is worthless.
        raise ValueError(f"{len(missing)} tensors are missing from the weights, the first is {missing[0]!r}")
    return model if ref.gguf_file is None else _dequantized(model, options["dtype"])


def _origin(ref: Reference, trust_remote_code: bool) -> dict[str, Any]:
    if ref.gguf_file is None:
        return {"revision": ref.revision or "main", "trust_remote_code": trust_remote_code}
    from transformers import GgufConfig

    return {"gguf_file": ref.gguf_file, "quantization_config": GgufConfig(dequantize=True)}


def _dequantized(model: Any, dtype: torch.dtype) -> Any:
    if model.config.get_text_config().tie_word_embeddings:
        # Some GGUF files carry the output matrix apart, quantised differently from the embedding it is tied to.
        model.tie_weights()
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if head is not None and head.weight is not embedding.weight:
            head.weight = embedding.weight
    return model.to(dtype)


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


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
