"""Reads a model and its tokenizer from a Hugging Face folder and checks that every weight was read.

Guarantees that what was loaded, from a folder or a hub repository, is the whole checkpoint and nothing else: no tensor
is left over, missing, stored twice, tied against its own values, or read without the scales of its quantisation. Each
of these loads in silence elsewhere, and only the scores differ. Every token id that the tokenizer writes by itself has
a row in the embedding table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

CONFIG = "config.json"

_FORMATS = (("model", "safetensors"), ("pytorch_model", "bin"))  # in the order in which transformers looks for them

# Values that a model computes itself; older checkpoints carry them as tensors.
_COMPUTED = re.compile(r"(^|\.)((rotary_emb\.)?inv_freq|masked_bias|(attn|attention)\.bias|position_ids)$")

_WIDE = {"F16", "BF16", "F32", "F64", "I16", "U16", "I32", "U32", "I64", "U64", "C64", "C128"}

_WHOLE_NUMBERS = {"I16", "U16", "I32", "U32", "I64", "U64"}

_SHOWN = 3


_LAYOUT = "give a folder in the Hugging Face layout"


class UnfitCheckpoint(ValueError):
    """The files of a checkpoint are not those of one whole model; the text says what is wrong and what to do."""


def check_folder(folder: Path) -> None:
    """Checks that a folder holds one configuration and one set of weights.

    Raises:
        UnfitCheckpoint: the configuration is missing or no JSON, a shard is missing, or two sets of weights are there.
    """
    _read_config(folder)
    files_read(folder)
    for stem, ending in _FORMATS:
        whole, index = folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"
        used = {whole.name} if whole.is_file() else _shards(index) if index.is_file() else set()
        shard = re.compile(rf"{stem}-\d+-of-\d+\.{ending}")
        spare = sorted(p.name for p in folder.iterdir() if shard.fullmatch(p.name) and p.name not in used)
        if whole.is_file() and index.is_file():
            spare.insert(0, index.name)
        if used and spare:
            raise UnfitCheckpoint(
                f"it holds two sets of weights, {quote_names(sorted(used))} and {quote_names(spare)}; "
                "which of them is meant is not known, so remove the other one"
            )


def files_read(folder: Path) -> tuple[Path, ...]:
    """The weight files of a folder that transformers reads, in order; empty where it holds none.

    Raises:
        UnfitCheckpoint: an index is damaged or names a file that is missing.
    """
    for stem, ending in _FORMATS:
        whole, index = folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"
        if whole.is_file():
            return (whole,)
        if index.is_file():
            shards = [folder / name for name in sorted(_shards(index))]
            if missing := [path.name for path in shards if not path.is_file()]:
                raise UnfitCheckpoint(f"{index.name} names {quote_names(missing)}, which is missing; fetch it again")
            return tuple(shards)
    return ()


def stored_formats(files: Iterable[Path]) -> dict[str, str]:
    """Name of every tensor in weight files, with the number format in which it is stored.

    Raises:
        UnfitCheckpoint: a file is damaged, or a tensor stands in two of them.
    """
    formats: dict[str, str] = {}
    for path in files:
        for name, kind in _formats_in(path).items():
            if name in formats:
                raise UnfitCheckpoint(f"the tensor {name!r} stands in two weight files, the second is {path.name}")
            formats[name] = kind
    return formats


def check_loaded(model: Any, report: Mapping[str, Any], formats: Mapping[str, str], claimed: bool) -> dict[str, str]:
    """Checks a model that transformers has loaded against the checkpoint.

    Args:
        model: the loaded model.
        report: transformers' loading info.
        formats: what `stored_formats` says of the checkpoint; empty where its files are not at hand.
        claimed: whether a quantizer has read the weights.

    Returns:
        What was left out and may be, as text for the record.

    Raises:
        UnfitCheckpoint: names the tensors that are missing, left over or stored in a format that nobody converts.
    """
    # transformers fills what is missing with random numbers and only warns; a score from those is worthless.
    _refuse(
        (f"{name} {list(stored)}, not {list(built)}" for name, stored, built in report.get("mismatched_keys", ())),
        f"of the weights have other shapes than {CONFIG} says",
        f"restore the {CONFIG} that was saved with these weights",
    )
    _refuse(report.get("missing_keys", ()), "are missing from the weights", "restore the file that holds them")
    _refuse(
        (name for name in report.get("unexpected_keys", ()) if not _COMPUTED.search(name)),
        f"of the weights are left over: the model that {CONFIG} describes does not have them",
        f"restore the {CONFIG} that was saved with these weights",
    )
    _check_tied(model)
    if not claimed:
        _check_formats(model, formats)
    ignored = sorted(_ignored(model, formats))
    return {"left_out": f"{len(ignored)} tensors: {quote_names(ignored)}"} if ignored else {}


def claimed_by_quantizer(folder: Path | None) -> bool:
    """Whether transformers has a quantizer for what the configuration of a folder asks for."""
    if folder is None:
        return False
    from transformers.quantizers.auto import AutoHfQuantizer

    config = _read_config(folder)
    text = config.get("text_config")
    asked = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    return isinstance(asked, dict) and bool(AutoHfQuantizer.supports_quant_method(asked))


def quote_names(names: Sequence[str]) -> str:
    """The first few of some names in quotes, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        trained = folder / "adapter"
        whole = f"the adapter that was trained is in {trained}, give that" if trained.is_dir() else _LAYOUT
        raise UnfitCheckpoint(f"it has no {CONFIG}; {whole}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnfitCheckpoint(f"its {CONFIG} is not valid JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def settings_of(source: str, value: Any) -> list[str]:
    """Returns the names of the settings in a folder's configuration that have this value, such as ``rope.type``."""
    if value is None or not (Path(source) / CONFIG).is_file():
        return []
    return list(_names_of(_read_config(Path(source)), value))


def _names_of(settings: Mapping[str, Any], value: Any, within: str = "") -> Iterator[str]:
    for name, held in settings.items():
        if isinstance(held, Mapping):
            yield from _names_of(held, value, f"{within}{name}.")
        elif held == value:
            yield f"{within}{name}"


def _shards(index: Path) -> set[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnfitCheckpoint(f"{index.name} is no index of weights ({type(error).__name__})") from error
    if wrong := next((n for n in names if not isinstance(n, str) or Path(n).name != n), None):
        raise UnfitCheckpoint(f"{index.name} names {wrong!r}, which is no file of this folder")
    return names


def _formats_in(path: Path) -> dict[str, str]:
    return (_safetensors_formats if path.suffix == ".safetensors" else _pickled_formats)(path)


def _safetensors_formats(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - a file, no dict
    except SafetensorError as error:
        raise UnfitCheckpoint(f"{path.name} is damaged ({error})") from error


def _pickled_formats(path: Path) -> dict[str, str]:
    state = torch.load(path, map_location="meta", weights_only=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {name: _kind_of(value.dtype) for name, value in tensors.items()}


def _kind_of(dtype: torch.dtype) -> str:
    if dtype.itemsize == 1:
        return str(dtype)
    return "F32" if dtype.is_floating_point or dtype.is_complex else f"I{8 * dtype.itemsize}"


def _refuse(names: Iterable[str], what: str, advice: str) -> None:
    listed = sorted(names)
    if listed:
        raise UnfitCheckpoint(f"{len(listed)} tensors {what}: {quote_names(listed)}; {advice}")


def _check_tied(model: Any) -> None:
    """Two matrices that the configuration ties but the checkpoint stores with different values."""
    for one, other in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        first, second = model.get_parameter_or_buffer(one), model.get_parameter_or_buffer(other)
        if first is not second and not first.is_meta and not torch.equal(first, second):
            raise UnfitCheckpoint(
                f"{CONFIG} ties {one!r} to {other!r}, but the weights hold different values for them; set "
                f"tie_word_embeddings to false in {CONFIG} to use both"
            )


def _check_formats(model: Any, formats: Mapping[str, str]) -> None:
    computed = {name for name, _ in model.named_buffers()} | {name for name in formats if _COMPUTED.search(name)}
    narrow = [name for name, kind in formats.items() if kind not in _WIDE and name not in computed]
    if narrow:
        kinds = ", ".join(sorted({formats[name] for name in narrow}))
        _refuse(
            narrow,
            f"are stored in 8 bits or fewer ({kinds}) and no quantizer reads them",
            f"add the quantization_config to {CONFIG} that they were saved with, or convert them to a wider format",
        )
    _refuse(
        (name for name, kind in formats.items() if kind in _WHOLE_NUMBERS and name not in computed),
        "are stored as whole numbers and no quantizer reads them",
        f"add the quantization_config to {CONFIG} that they were saved with, or convert them to floating point",
    )


def _ignored(model: Any, formats: Mapping[str, str]) -> Iterable[str]:
    """Tensors of the checkpoint that the architecture itself declares to be no part of it."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    own = model.state_dict().keys()
    return (name for name in formats if name not in own and any(re.search(pattern, name) for pattern in patterns))


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")

_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, eq=False)
class Loaded:
    """What the files of a model hold.

    Attributes:
        model: transformers' model.
        tokenizer: its tokenizer.
        stop_ids: tokens that end an answer beside those of the generation settings and the tokenizer.
        notes: which files were read, and what was used where they say nothing, by subject.
    """

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int] = frozenset()
    notes: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(source: str, revision: str, options: Mapping[str, Any], trust_remote_code: bool) -> Loaded:
    """Loads a folder or a hub repository.

    Args:
        source: the folder or the hub id.
        revision: of the hub repository.
        options: for transformers' ``from_pretrained``.
        trust_remote_code: run Python that the checkpoint brings.

    Raises:
        UnfitCheckpoint: the files are not those of one whole model.
    """
    from transformers import AutoModelForCausalLM

    if Path(source).is_dir():
        check_folder(Path(source))
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = _tokenizer(source, origin)
    config, notes = _config(source, origin)
    model, report = AutoModelForCausalLM.from_pretrained(
        # With other shapes the sentence of `check_loaded` names them.
        source,
        config=config,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **origin,
        **options,
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnfitCheckpoint("it is an adapter on the hub; download it and give its folder")
    folder = _folder(source, revision)
    files = files_read(folder) if folder is not None else ()
    notes |= check_loaded(model, report, stored_formats(files), claimed_by_quantizer(folder))
    if files:
        notes["weights"] = quote_names([path.name for path in files])
    return Loaded(model, tokenizer, notes=notes)


def adapters_tokenizer(folder: Path, base: Any, trust_remote_code: bool) -> Any:
    """The tokenizer and chat template that an adapter's folder brings, else those of its base model."""
    tokenizer = base
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = _tokenizer(str(folder), {"trust_remote_code": trust_remote_code})
    template = folder / _TEMPLATE_FILE
    if template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def keep_pad_inside(model: Any, tokenizer: Any) -> dict[str, str]:
    """Takes a padding token without a row in the embedding table away from a tokenizer, and says so in a note."""
    rows, pad = _rows(model), tokenizer.pad_token_id
    if pad is None or pad < rows:
        return {}
    lost, end = tokenizer.pad_token, tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token if end is not None and end < rows else None
    return {"pad": f"{lost!r} has the id {pad}, but the embedding has {rows} rows; {tokenizer.pad_token!r} is used"}


def check_ids(model: Any, tokenizer: Any) -> None:
    """Checks that the embedding table has a row for every token that a prompt brings by itself.

    Raises:
        UnfitCheckpoint: names a token without one.
    """
    rows = _rows(model)
    for prompt, plain in (("a", True), (_rendered(tokenizer), False)):
        ids = tokenizer(prompt, add_special_tokens=plain)["input_ids"]
        if beyond := [index for index in ids if index >= rows]:
            token = tokenizer.convert_ids_to_tokens(beyond[0])
            raise UnfitCheckpoint(
                f"its prompts hold the token {token!r} with the id {beyond[0]}, but its embedding has {rows} rows; "
                "give the tokenizer that the weights were trained with, or weights whose embedding was resized"
            )


def _rendered(tokenizer: Any) -> str:
    try:
        turns = [{"role": "user", "content": "Hi"}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception:  # no template, or one that refuses: said where a conversation is rendered
        return ""


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _tokenizer(source: str, origin: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **origin)
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        # transformers makes one up and is silent
        raise UnfitCheckpoint(
            "it has no tokenizer, or one without a vocabulary; add the tokenizer's files (tokenizer.json, "
            "tokenizer_config.json) of the model that it was made from"
        )
    return tokenizer


def _config(source: str, origin: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """The configuration, without a padding token that its own vocabulary does not have: it cannot be built with one."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, **origin)
    notes: dict[str, str] = {}
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        pad, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(rows, int) and not -rows <= pad < rows:
            part.pad_token_id = None
            notes["config_pad"] = f"pad_token_id {pad} of {CONFIG} is outside the {rows} rows of the embedding"
    return config, notes


def _folder(source: str, revision: str) -> Path | None:
    """Where the files of a checkpoint lie on this machine."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, CONFIG, revision=revision)
    return Path(config).parent if isinstance(config, str) else None
