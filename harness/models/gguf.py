"""Weights and tokenizer of a GGUF file.

Both are read through transformers' reader, and what that reader passes over is added here: how the tokenizer splits
text before merging, what it adds to a text, and which tokens end an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.models import gguf_settings
from harness.models.checkpoint import Loaded, UnfitCheckpoint, check_loaded, quote_names
from harness.models.gguf_settings import GgufFile, apply_settings, check_keys, open_gguf

# How llama.cpp splits, by the name in the file, beyond what transformers knows.
_AS_GPT2 = {"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de"}

_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}

# Words that stand in the vocabulary are taken whole, whatever the merges say; of these the first adds a BOS as well.
_LLAMA3 = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}

_WHOLE_WORDS = {*_LLAMA3, "tekken"}

_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")

_CHANGES_TEXT = (
    "remove_extra_whitespaces",
    "normalizer.lowercase",
    "suppress_tokens",
    "treat_whitespace_as_suffix",
    "add_sep_token",
)

_MARK = "\u2581"

_SAID = "8f1c closing 8f1c"


def read_tokenizer(file: GgufFile) -> tuple[Any, dict[str, str]]:
    """Reads the tokenizer as the file describes it.

    Returns:
        The tokenizer, and what was used where the file says nothing.

    Raises:
        UnfitCheckpoint: names the key that cannot be applied.
    """
    from transformers import AutoTokenizer

    for key in _CHANGES_TEXT:
        if file.of_tokenizer(key):
            raise UnfitCheckpoint(f"its key tokenizer.ggml.{key} changes the text, which is not applied here")
    kind = _splitting(file)
    tokenizer = AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise UnfitCheckpoint("it has no tokenizer, or one without a vocabulary")
    notes = {"pre_tokenizer": kind} if kind else {}
    _split_digits(tokenizer, kind)
    if kind in _WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    _apply_space(tokenizer, file)
    return tokenizer, notes | _apply_ends(tokenizer, file, kind)


def stops_of(file: GgufFile, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those that the file names, and the one that closes a turn in its chat template."""
    listed = {file.of_tokenizer(name) for name in _STOPS} | {_closing(tokenizer)}
    return frozenset(int(index) for index in listed if index is not None)


def _splitting(file: GgufFile) -> str:
    if file.of_tokenizer("model") != "gpt2":
        return ""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind = file.of_tokenizer("pre")
    if kind is None:
        raise UnfitCheckpoint(
            "its key tokenizer.ggml.pre is missing, so it is not known how text is split into words; convert it again"
        )
    known = {*GGUF_PRE_TOKENIZER_SPLITS, *_AS_GPT2, *_DIGITS_APART}
    if kind not in known:
        raise UnfitCheckpoint(
            f"its key tokenizer.ggml.pre is {kind!r}, a way to split text into words that is not known here; "
            "give the folder that the file was converted from"
        )
    return str(kind)


def _split_digits(tokenizer: Any, kind: str) -> None:
    from tokenizers import pre_tokenizers

    if kind in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _apply_space(tokenizer: Any, file: GgufFile) -> None:
    """Whether a space is put before the text, of a SentencePiece vocabulary."""
    from tokenizers import pre_tokenizers

    asked = file.of_tokenizer("add_space_prefix")
    if asked is None or file.of_tokenizer("model") == "gpt2":
        return
    if not asked and _adds_space(tokenizer):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_MARK, "never", split=False)
    if bool(asked) != _adds_space(tokenizer):
        raise UnfitCheckpoint(f"its key tokenizer.ggml.add_space_prefix is {asked}, which cannot be applied")


def _adds_space(tokenizer: Any) -> bool:
    return bool(tokenizer.tokenize("a")[:1] and tokenizer.tokenize("a")[0].startswith(_MARK))


def _apply_ends(tokenizer: Any, file: GgufFile, kind: str) -> dict[str, str]:
    """Whether BOS and EOS are put around plain text."""
    notes = {}
    begins = file.of_tokenizer("add_bos_token")
    if begins is None and kind in _LLAMA3 and tokenizer.bos_token_id is not None:
        tokenizer.add_bos_token = begins = True
        notes["add_bos_token"] = f"true, as llama.cpp does for {kind!r}; the file does not say"
    if begins is not None and tokenizer.bos_token_id is not None:
        _check_end(tokenizer, "add_bos_token", bool(begins), tokenizer.bos_token_id, 0)
    ends = file.of_tokenizer("add_eos_token")
    if ends is not None and tokenizer.eos_token_id is not None:
        _check_end(tokenizer, "add_eos_token", bool(ends), tokenizer.eos_token_id, -1)
    return notes


def _check_end(tokenizer: Any, key: str, asked: bool, token: int, place: int) -> None:
    if (tokenizer("a")["input_ids"][place] == token) != asked and key != "add_bos_token":
        raise UnfitCheckpoint(f"its key tokenizer.ggml.{key} is {asked}, which cannot be applied")


def _closing(tokenizer: Any) -> int | None:
    """The special token with which the chat template closes an assistant's turn."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # no template, or one that refuses: said where a conversation is rendered
        return None
    ids = tokenizer(text.rpartition(_SAID)[2].lstrip(), add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return int(ids[0]) if ids and ids[0] in special else None


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

    file = open_gguf(path)
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
    gguf_settings.scale_frequencies(model, file)
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
        if name not in known and name not in gguf_settings.TENSORS and not _STACKED.search(name)
    ]
    if spare:
        raise UnfitCheckpoint(
            f"{len(spare)} tensors of the file are left over: {quote_names(spare)}; its keys describe another model "
            "than its tensors, so convert it again"
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
