"""The tokenizer of a GGUF file: how text is split before merging, what is added to it, and what ends an answer."""

from __future__ import annotations

from typing import Any

from harness.gguf.file import GgufFile
from harness.weights_check import UnfitCheckpoint

# How llama.cpp splits, by the name in the file, beyond what transformers knows.
_AS_GPT2 = {"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de"}
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
# Words that stand in the vocabulary are taken whole, whatever the merges say; of these the first adds a BOS as well.
_LLAMA3 = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
_WHOLE_WORDS = {*_LLAMA3, "tekken"}
_STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
_CHANGES_TEXT = ("remove_extra_whitespaces", "normalizer.lowercase", "suppress_tokens")
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
