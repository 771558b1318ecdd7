"""One prompt for several tokenizers: message spans of a chat, and sections of equal length.

Rows have equal length, and message tokens of the receiver and of each sharer are in pairs (C2C, section 3.3.2, "token
alignment"). A message is found by what the template puts around it, at the cost of a second rendering with markers, so
one that repeats a role word, a template phrase or another message is not mistaken. The original takes a header's word
for the content. If the receiver's closing template section is shorter, it is padded before its tokens; the original
pads behind them and reads the answer's first logits at a masked pad. Special tokens inside a message map as in the
original: by role, by string, else to unknown or 0.

A sharer may get other messages than the receiver, of the same number. Of one that differs, the tokens of the text with
which both begin and end are in pairs; what lies between is read by its own model alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models.chat import fixed_clock, same_vocabulary
from harness.models.token_seam import common_prefix, plain_ids
from harness.token_alignment.token_map import TokenMap, pad_id, token_map

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


@dataclass(frozen=True)
class Chat:
    """One model's reading of a chat.

    Attributes:
        ids: Token ids of the rendered text.
        messages: Half-open token ranges of the messages' content, ascending, some perhaps empty.
        text: The rendered text.
        offsets: Where each token stands in it.
        contents: Where each message's content stands in it.
    """

    ids: tuple[int, ...]
    messages: tuple[Span, ...]
    text: str = ""
    offsets: tuple[Span, ...] = ()
    contents: tuple[Span, ...] = ()

    def content(self, message: int) -> str:
        """Returns the text of one message as the template writes it."""
        start, end = self.contents[message]
        return self.text[start:end]

    def shared(self, message: int, other: str) -> tuple[int, int]:
        """Returns how many of a message's first and last tokens another text begins and ends with."""
        (start, stop), own = self.contents[message], self.content(message)
        offsets = self.offsets[slice(*self.messages[message])]
        tail = common_prefix(own[::-1], other[::-1])
        head = min(common_prefix(own, other), len(own) - tail, len(other) - tail)
        last = sum(a >= stop - tail for a, _ in offsets)
        return min(sum(b <= start + head for _, b in offsets), len(offsets) - last), last

    def between(self, message: int, first: int, last: int) -> Span:
        """Returns where the characters between a message's first and last tokens begin and end, from both sides."""
        (start, stop), (a, b) = self.contents[message], self.messages[message]
        begin = max(self.offsets[a + first - 1][1] - start, 0) if first else 0
        return begin, stop - self.offsets[b - last][0] if last else 0

    def pieces(self) -> list[tuple[int, ...]]:
        """Returns template, message, template, ...: always one more template than messages."""
        cuts = [0, *(edge for span in self.messages for edge in span), len(self.ids)]
        return [self.ids[start:end] for start, end in pairwise(cuts)]


def read_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]
) -> Chat:
    """Renders and tokenises a chat and finds its messages.

    A token that straddles an edge of a message belongs to the message, so that no content is lost.

    Raises:
        UserError: If the template refuses the chat or does not write every message exactly once, or if the
            tokenizer cannot say where its tokens stand in the text.
    """
    text = _render(tokenizer, messages, template_kwargs)
    markers = [f"Qz{index}marker{index}zQ" for index in range(len(messages))]
    marked = [{**message, "content": marker} for message, marker in zip(messages, markers, strict=True)]
    frame = _split(tokenizer, _render(tokenizer, marked, template_kwargs), markers)
    spans = _content_spans(tokenizer, text, frame, [message["content"] for message in messages])
    if not tokenizer.is_fast:
        raise UserError(f"{_name(tokenizer)} has a slow tokenizer; token alignment needs a fast one (tokenizer.json).")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = tuple((int(a), int(b)) for a, b in encoded["offset_mapping"])
    return Chat(tuple(encoded["input_ids"]), _token_spans(offsets, spans), text, offsets, tuple(spans))


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]
) -> str:
    arguments = {**template_kwargs, **fixed_clock(tokenizer)}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments))
    except Exception as error:  # a template is a program of somebody else's and may raise anything
        raise UserError(f"The chat template of {_name(tokenizer)} cannot render this chat: {error}") from error


def _split(tokenizer: PreTrainedTokenizerBase, text: str, markers: Sequence[str]) -> list[str]:
    frame = []
    for index, marker in enumerate(markers):
        before, found, text = text.partition(marker)
        if not found or marker in text:
            raise UserError(
                f"The chat template of {_name(tokenizer)} does not write message {index} exactly once, in order; "
                "token alignment needs that: use another template."
            )
        frame.append(before)
    return [*frame, text]


def _content_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, frame: Sequence[str], contents: Sequence[str]
) -> list[Span]:
    if not text.startswith(frame[0]):
        raise _unfound(tokenizer, 0)
    position, spans = len(frame[0]), []
    for index, content in enumerate(contents):
        after, last = frame[index + 1], index == len(contents) - 1
        end = _content_end(text, position, content, after, last)
        if end is None:
            raise _unfound(tokenizer, index)
        spans.append((position, end))
        position = end + len(after)
    return spans


def _content_end(text: str, position: int, content: str, after: str, last: bool) -> int | None:
    if last and text.endswith(after) and len(text) - len(after) >= position:
        return len(text) - len(after)
    for form in (content, content.strip(), content.lstrip(), content.rstrip()):
        if text.startswith(form + after, position):
            return position + len(form)
    # The template rewrote the content, for instance took a thinking block out of it.
    end = text.find(after, position) if after and not last else -1
    return None if end < 0 else end


def _unfound(tokenizer: PreTrainedTokenizerBase, index: int) -> UserError:
    return UserError(
        f"The chat template of {_name(tokenizer)} frames message {index} differently for different content; "
        "token alignment cannot find it: use another template."
    )


def _token_spans(offsets: Sequence[Span], spans: Sequence[Span]) -> tuple[Span, ...]:
    found, token = [], 0
    for start, end in spans:
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        first = token
        while token < len(offsets) and offsets[token][0] < end:
            token += 1
        found.append((first, token))
    return tuple(found)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(str(tokenizer.name_or_path))


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
        ids: One row of token ids a model, the receiver first, all of one length unless messages differ.
        real: False where a pad was inserted, per model.
        sections: Of the receiver's row; ascending, without gaps, none empty.
        starts: Where each section begins in each sharer's row.
    """

    ids: tuple[tuple[int, ...], ...]
    real: tuple[tuple[bool, ...], ...]
    sections: tuple[Section, ...]
    starts: tuple[tuple[int, ...], ...] = ()


def align(
    receiver_tok: PreTrainedTokenizerBase,
    sharer_toks: Sequence[PreTrainedTokenizerBase],
    messages: Sequence[Mapping[str, Any]],
    strategy: str,
    template_kwargs: Mapping[str, Any],
    sharer_messages: Sequence[Mapping[str, Any]] | None = None,
) -> AlignedPrompt:
    """Aligns a chat, rendered by each model's own template with a generation prompt.

    Args:
        receiver_tok: The receiver's tokenizer.
        sharer_toks: The sharers' tokenizers.
        messages: Dicts with ``role`` and ``content``.
        strategy: ``first`` or ``longest``.
        template_kwargs: Further arguments of the chat templates, for instance ``enable_thinking``.
        sharer_messages: What the sharers read in place of ``messages``, as many of them; None for the same.

    Raises:
        UserError: If the strategy is unknown or a template cannot be aligned.
    """
    maps = [token_map(receiver_tok, sharer, strategy) for sharer in sharer_toks]
    theirs = messages if sharer_messages is None else sharer_messages
    chats = [read_chat(tok, theirs, template_kwargs) for tok in sharer_toks]
    chats = [read_chat(receiver_tok, messages, template_kwargs), *chats]
    pairs = zip(messages, theirs, strict=True)
    differing = [number for number, (own, other) in enumerate(pairs) if own["content"] != other["content"]]
    return _assemble(chats, maps, [receiver_tok, *sharer_toks], differing)


def align_text(
    receiver_tok: PreTrainedTokenizerBase,
    sharer_toks: Sequence[PreTrainedTokenizerBase],
    text: str,
    strategy: str,
    sharer_text: str | None = None,
) -> AlignedPrompt:
    """Aligns raw text as one message; what tokenizers put before it by themselves (BOS) is template.

    Args:
        receiver_tok: The receiver's tokenizer.
        sharer_toks: The sharers' tokenizers.
        text: What is read.
        strategy: ``first`` or ``longest``.
        sharer_text: What the sharers read in place of it; None for the same.

    Raises:
        UserError: If the strategy is unknown.
    """
    maps = [token_map(receiver_tok, sharer, strategy) for sharer in sharer_toks]
    theirs = text if sharer_text is None else sharer_text
    chats = [_read_text(receiver_tok, text), *(_read_text(tok, theirs) for tok in sharer_toks)]
    return _assemble(chats, maps, [receiver_tok, *sharer_toks], [] if text == theirs else [0])


def _read_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Chat:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    body = tuple(encoded["input_ids"])
    ids = plain_ids(tokenizer, text)
    if ids[len(ids) - len(body) :] != body:
        ids = body
    before = len(ids) - len(body)
    offsets = ((0, 0),) * before + tuple((int(a), int(b)) for a, b in encoded.get("offset_mapping", ()))
    return Chat(ids, ((before, len(ids)),), text, offsets, ((0, len(text)),))


def _assemble(
    chats: Sequence[Chat],
    maps: Sequence[TokenMap],
    tokenizers: Sequence[PreTrainedTokenizerBase],
    differing: Collection[int],
) -> AlignedPrompt:
    rows = _Rows(tokenizers)
    pieces = list(zip(*(chat.pieces() for chat in chats), strict=True))
    for index, ids in enumerate(pieces):
        if index % 2 == 0:
            rows.add(_padded(ids, closing=index == len(pieces) - 1), message=False)
        elif index // 2 not in differing:
            rows.add(_translated(ids[0], maps), message=True)
        else:
            _add_differing(rows, chats, index // 2, maps)
    return rows.aligned()


class _Rows:
    """The rows of all models as they grow, section by section."""

    def __init__(self, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
        self.pads = [pad_id(tok) for tok in tokenizers]
        self.ids: list[list[int]] = [[] for _ in tokenizers]
        self.real: list[list[bool]] = [[] for _ in tokenizers]
        self.sections: list[Section] = []
        self.starts: list[tuple[int, ...]] = []

    def add(self, filled: Sequence[Sequence[int | None]], message: bool) -> None:
        """Appends a piece a row; None is a pad. Only what the receiver reads is a section."""
        starts = tuple(map(len, self.ids))
        for row, pad, ids_of_row, real_of_row in zip(filled, self.pads, self.ids, self.real, strict=True):
            ids_of_row.extend(pad if token is None else token for token in row)
            real_of_row.extend(token is not None for token in row)
        if len(self.ids[0]) > starts[0]:
            self.sections.append(Section(starts[0], len(self.ids[0]), message))
            self.starts.append(starts[1:])

    def aligned(self) -> AlignedPrompt:
        """The rows as they are now."""
        starts = tuple(zip(*self.starts, strict=True))
        return AlignedPrompt(tuple(map(tuple, self.ids)), tuple(map(tuple, self.real)), tuple(self.sections), starts)


def _add_differing(rows: _Rows, chats: Sequence[Chat], message: int, maps: Sequence[TokenMap]) -> None:
    """Appends a message that the sharers read otherwise: what both begin with, what differs, what both end with."""
    receiver, texts = chats[0], [chat.content(message) for chat in chats[1:]]
    shared = [receiver.shared(message, text) for text in texts]
    last = min(tail for _, tail in shared)
    first = min(head for head, _ in shared)
    own = receiver.ids[slice(*receiver.messages[message])]
    begin, end = receiver.between(message, first, last)
    alone = [tokens.sharer_ids(text[begin : len(text) - end]) for tokens, text in zip(maps, texts, strict=True)]
    rows.add(_translated(own[:first], maps), message=True)
    rows.add([own[first : len(own) - last], *alone], message=False)
    rows.add(_translated(own[len(own) - last :], maps), message=True)


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
