"""Word-level tokenizers for small worlds, saved as files that any transformers loader reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from harness.demo.wording import CHAT_TEMPLATE, END, PAD, SPECIAL, UNK, Message, vocabulary


def build_tokenizer(names: Sequence[str]) -> Any:
    """Builds the tokenizer of the world with these invented names."""
    return word_tokenizer(vocabulary(names))


def word_tokenizer(words: Sequence[str]) -> Any:
    """Builds a tokenizer with the chat template: one token a word, white space between words carries no meaning.

    Args:
        words: the vocabulary in order, the special tokens first.
    """
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[t for t in SPECIAL if t not in {PAD, UNK, END}],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Saves the tokenizer under the class name that every transformers version knows."""
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def render(tokenizer: Any, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Renders chats with the generation prompt and encodes them: one list of ids a chat."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids
