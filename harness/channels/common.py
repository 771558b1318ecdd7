"""What the channels share: fitting prompts into a model and reading a prompt from start to end."""

from __future__ import annotations

from collections.abc import Sequence

from harness.channels.base import PromptTooLong
from harness.forward import ANSWER_ROOM, extend, left_padded, new_buffer
from harness.inference.types import CallStats, Context, Query, Role
from harness.models import LM
from harness.prompts import Conversation, Encoded, Speaker, encode


def encode_fitting(lm: Speaker, conversation: Conversation, room: int) -> Encoded:
    """Encodes a conversation and makes sure that it and what follows it fit the model's context.

    Args:
        lm: who reads it.
        conversation: with its options, if any.
        room: tokens that a decoded answer may take; the options' own room is known.

    Raises:
        PromptTooLong: they do not fit; read as lm-eval's `hf` does, the prompt is cut on the left instead.
    """
    encoded = encode(lm, conversation)
    room = max(room, encoded.room)
    if conversation.reading.as_lm_eval and room < lm.max_length:
        encoded = encoded.last(lm.max_length - room)
    check_fits(lm, len(encoded.ids), room)
    return encoded


def prompts_of(lm: LM, queries: Sequence[Query], role: Role, answering: bool = True) -> list[Encoded]:
    """What a model in a role reads of each query, with room for the answer where it is the one that answers.

    Raises:
        PromptTooLong: see `encode_fitting`.
    """
    return [encode_fitting(lm, query.of(role), query.room if answering else 0) for query in queries]


def check_fits(lm: Speaker, tokens: int, room: int) -> int:
    """Returns `tokens`.

    Raises:
        PromptTooLong: they and `room` more do not fit the model's context, or there are none.
    """
    if tokens + room > lm.max_length:
        raise PromptTooLong(
            f"The prompt has {tokens} tokens and its answer may take {room}; "
            f"the context of {lm.reference.text!r} holds {lm.max_length}."
        )
    if tokens == 0:
        raise PromptTooLong(f"The prompt is empty for {lm.reference.text!r}.")
    return tokens


def prefill(lm: LM, prompts: Sequence[Encoded], work: CallStats) -> Context:
    """Reads whole prompts in one forward call; only the last position is projected onto the vocabulary."""
    rows = [prompt.ids for prompt in prompts]
    work.cut_prompts += sum(prompt.dropped > 0 for prompt in prompts)
    columns = left_padded(rows, [0] * len(rows), lm)
    buffer = new_buffer(lm, len(rows), columns.ids.shape[1] + ANSWER_ROOM)
    logits = extend(lm, buffer, columns, work.counters, keep=1)
    assert logits is not None
    work.counters.prompt_tokens += columns.tokens
    lengths = tuple(len(r) for r in rows)
    return Context(lm, buffer, logits[:, -1], lengths, lengths, tuple(prompt.options for prompt in prompts))
