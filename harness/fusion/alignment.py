"""One prompt for several tokenizers, cut into sections of equal length (C2C, section 3.3.2, "token alignment").

Guarantees rows of equal length, in which message tokens of the receiver and of each sharer stand in pairs.
Keeps the paper's arithmetic on ordinary chats and departs from its code where that is doubtful:

* Content is located by what the template writes around it, so a message that repeats a role word is not
  confused with a header. The original takes the header's word for the content.
* If the receiver's closing template section is the shorter one, it is padded before its tokens, not behind
  them. The original reads the answer's first logits at a masked pad.

Special tokens written inside a message map as the original does: by role, by string, else to unknown or 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.fusion.spans import Chat, read_chat
from harness.fusion.tokenmap import TokenMap, pad_id, same_vocabulary, token_map
from harness.seam import plain_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AlignedPrompt", "Section", "align", "align_text", "same_vocabulary"]

Row = tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """A half-open range of positions that holds template text or the content of one message."""

    start: int
    end: int
    message: bool


@dataclass(frozen=True)
class AlignedPrompt:
    """A prompt as every model reads it.

    Attributes:
        ids: One row of token ids a model, the receiver first, all of one length.
        real: False where a pad was inserted, per model.
        sections: Ascending, without gaps, none empty.
    """

    ids: tuple[tuple[int, ...], ...]
    real: tuple[tuple[bool, ...], ...]
    sections: tuple[Section, ...]


def align(
    receiver_tok: PreTrainedTokenizerBase,
    sharer_toks: Sequence[PreTrainedTokenizerBase],
    messages: Sequence[Mapping[str, Any]],
    strategy: str,
    template_kwargs: Mapping[str, Any],
) -> AlignedPrompt:
    """Aligns a chat, rendered by each model's own template with a generation prompt.

    Args:
        receiver_tok: The receiver's tokenizer.
        sharer_toks: The sharers' tokenizers.
        messages: Dicts with ``role`` and ``content``.
        strategy: ``first`` or ``longest``.
        template_kwargs: Further arguments of the chat templates, for instance ``enable_thinking``.

    Raises:
        UserError: If the strategy is unknown or a template cannot be aligned.
    """
    maps = [token_map(receiver_tok, sharer, strategy) for sharer in sharer_toks]
    tokenizers = [receiver_tok, *sharer_toks]
    return _assemble([read_chat(tok, messages, template_kwargs) for tok in tokenizers], maps, tokenizers)


def align_text(
    receiver_tok: PreTrainedTokenizerBase,
    sharer_toks: Sequence[PreTrainedTokenizerBase],
    text: str,
    strategy: str,
) -> AlignedPrompt:
    """Aligns raw text as one message; what tokenizers put before it by themselves (BOS) is template.

    Raises:
        UserError: If the strategy is unknown.
    """
    maps = [token_map(receiver_tok, sharer, strategy) for sharer in sharer_toks]
    tokenizers = [receiver_tok, *sharer_toks]
    return _assemble([_read_text(tok, text) for tok in tokenizers], maps, tokenizers)


def _read_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Chat:
    body = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = plain_ids(tokenizer, text)
    if ids[len(ids) - len(body) :] != body:
        ids = body
    return Chat(ids, ((len(ids) - len(body), len(ids)),))


def _assemble(
    chats: Sequence[Chat], maps: Sequence[TokenMap], tokenizers: Sequence[PreTrainedTokenizerBase]
) -> AlignedPrompt:
    pads = [pad_id(tok) for tok in tokenizers]
    pieces = list(zip(*(chat.pieces() for chat in chats), strict=True))
    ids: list[list[int]] = [[] for _ in chats]
    real: list[list[bool]] = [[] for _ in chats]
    sections = []
    for index, rows in enumerate(pieces):
        message, closing = index % 2 == 1, index == len(pieces) - 1
        filled = _translated(rows[0], maps) if message else _padded(rows, closing)
        start = len(ids[0])
        for row, pad, ids_of_row, real_of_row in zip(filled, pads, ids, real, strict=True):
            ids_of_row.extend(pad if token is None else token for token in row)
            real_of_row.extend(token is not None for token in row)
        if len(ids[0]) > start:
            sections.append(Section(start, len(ids[0]), message))
    return AlignedPrompt(tuple(map(tuple, ids)), tuple(map(tuple, real)), tuple(sections))


def _translated(receiver: Row, maps: Sequence[TokenMap]) -> list[Row]:
    return [receiver, *(tokens.map(receiver) for tokens in maps)]


def _padded(rows: Sequence[Row], closing: bool) -> list[tuple[int | None, ...]]:
    """Fills the shorter rows with None, behind their tokens but for the receiver's closing section."""
    width = max(map(len, rows))
    gaps: list[tuple[None, ...]] = [(None,) * (width - len(row)) for row in rows]
    return [
        (*gap, *row) if closing and index == 0 else (*row, *gap)
        for index, (row, gap) in enumerate(zip(rows, gaps, strict=True))
    ]
