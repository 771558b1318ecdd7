"""Where the messages of a chat stand in its rendered text and among its tokens.

Guarantees that a message is found by what the template puts around it, so that a message which repeats a
role word, a template phrase or another message is never mistaken for it. Costs a second rendering, with
markers for messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.seam import common
from harness.template_clock import fixed_clock

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
        tail = common(own[::-1], other[::-1])
        head = min(common(own, other), len(own) - tail, len(other) - tail)
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
