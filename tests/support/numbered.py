"""A tokenizer whose words are its token ids: `w08 w09` is 8, 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast


def numbered(ids: Sequence[int]) -> str:
    """The text of token ids."""
    return " ".join(f"w{i:02}" for i in ids)


def numbered_words(size: int) -> Any:
    """Builds the tokenizer of up to 100 words; its pad and EOS tokens are those of a small copy of a model."""
    core = Tokenizer(WordLevel({f"w{i:02}": i for i in range(size)}, unk_token="w03"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w00", eos_token="w02", unk_token="w03")
