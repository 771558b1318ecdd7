"""A model and its tokenizer out of a folder or a hub repository in the Hugging Face layout.

Guarantees that what was loaded is the whole checkpoint and nothing else, and that every token id which the tokenizer
writes by itself has a row in the embedding table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.weights_check import (
    CONFIG,
    UnfitCheckpoint,
    check_folder,
    check_loaded,
    claimed_by_quantizer,
    files_read,
    named,
    stored_formats,
)

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
        source, config=config, output_loading_info=True, **origin, **options
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnfitCheckpoint("it is an adapter on the hub; download it and give its folder")
    folder = _folder(source, revision)
    files = files_read(folder) if folder is not None else ()
    notes |= check_loaded(model, report, stored_formats(files), claimed_by_quantizer(folder))
    if files:
        notes["weights"] = named([path.name for path in files])
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
        raise ValueError("it has no tokenizer, or one without a vocabulary")  # transformers makes one up and is silent
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
