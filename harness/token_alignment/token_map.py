"""From a receiver's token id to the one sharer id that stands for it (C2C, section 3.3.2, "token alignment").

Guarantees exactly one sharer id for each receiver id, remembered for each pair of tokenizers. The price is
the paper's: a token that the sharer writes in several pieces is reduced to one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STRATEGIES = ("first", "longest")

# In this order a receiver's special token is recognised; one token often plays several parts.
_ROLES = ("pad", "eos", "bos", "unk")


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the id that fills gaps: the pad token's, else EOS, else 0 (inserted pads are masked)."""
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    return 0


class TokenMap:
    """Maps ids of one receiver to ids of one sharer.

    A special token maps by its role (pad, EOS, BOS, unknown), then by its string. Any other is decoded alone and
    encoded by the sharer's tokenizer; of several pieces ``first`` keeps the first and ``longest`` the one
    with the longest text. What has no counterpart becomes the sharer's unknown token, else id 0.
    """

    def __init__(
        self, receiver_tok: PreTrainedTokenizerBase, sharer_tok: PreTrainedTokenizerBase, strategy: str
    ) -> None:
        self._receiver, self._sharer, self._longest = receiver_tok, sharer_tok, strategy == "longest"
        self._vocab: dict[str, int] = sharer_tok.get_vocab()
        self._roles = _roles(receiver_tok, sharer_tok)
        self._special = frozenset(receiver_tok.all_special_ids)
        self._nothing = int(sharer_tok.unk_token_id or 0)
        self._known: dict[int, int] = {}

    def map(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Returns one sharer id for each receiver id."""
        return tuple(self._one(index) for index in ids)

    def sharer_ids(self, text: str) -> tuple[int, ...]:
        """Returns the sharer's own ids of a text, without special tokens around it."""
        return tuple(self._sharer.encode(text, add_special_tokens=False))

    def _one(self, index: int) -> int:
        if index not in self._known:
            self._known[index] = self._special_id(index) if index in self._special else self._plain_id(index)
        return self._known[index]

    def _special_id(self, index: int) -> int:
        if index in self._roles:
            return self._roles[index]
        return self._vocab.get(str(self._receiver.convert_ids_to_tokens(index)), self._nothing)

    def _plain_id(self, index: int) -> int:
        text = self._receiver.decode([index], clean_up_tokenization_spaces=False)
        pieces = self._sharer.encode(text, add_special_tokens=False)
        if not pieces:
            return self._nothing
        if not self._longest or len(pieces) == 1:
            return int(pieces[0])
        return int(max(pieces, key=lambda piece: len(self._sharer.decode([piece]))))


def _roles(receiver_tok: PreTrainedTokenizerBase, sharer_tok: PreTrainedTokenizerBase) -> dict[int, int]:
    """Pairs special ids by role; the sharer's pad falls back to its EOS, as everywhere."""
    roles: dict[int, int] = {}
    for role in _ROLES:
        ours, theirs = (getattr(tok, f"{role}_token_id") for tok in (receiver_tok, sharer_tok))
        theirs = pad_id(sharer_tok) if role == "pad" else theirs
        if ours is not None and theirs is not None:
            roles.setdefault(int(ours), int(theirs))
    return roles


def token_map(receiver_tok: PreTrainedTokenizerBase, sharer_tok: PreTrainedTokenizerBase, strategy: str) -> TokenMap:
    """Returns the map of a pair, the same object for the same pair.

    Raises:
        UserError: If the strategy is not one of ``STRATEGIES``.
    """
    if strategy not in STRATEGIES:
        raise unknown("alignment strategy", strategy, STRATEGIES)
    return _token_map(receiver_tok, sharer_tok, strategy)


@lru_cache(maxsize=32)
def _token_map(receiver_tok: PreTrainedTokenizerBase, sharer_tok: PreTrainedTokenizerBase, strategy: str) -> TokenMap:
    return TokenMap(receiver_tok, sharer_tok, strategy)
