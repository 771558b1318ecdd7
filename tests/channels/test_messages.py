"""A message hands out each query's part, takes other ones, and knows its bytes; records know it by its base alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from harness.channels.messages import NoMessage, TensorMessage, TextMessage, texts_of
from harness.errors import UserError

LENGTHS = (3, 0, 2)


@dataclass(frozen=True)
class States(TensorMessage):
    """A message of somebody else's, with a field of its own."""

    layer: int = 0


def states() -> States:
    parts = (torch.arange(2 * 5 * 4.0).view(2, 5, 4), torch.arange(5 * 3).view(1, 5, 3).to(torch.float16))
    return States(parts, LENGTHS, layer=7)


def test_rows_of_a_message_of_tensors() -> None:
    sent = states()
    assert len(sent) == 3
    assert [[tuple(part.shape) for part in row] for row in sent.rows()] == [
        [(2, 3, 4), (1, 3, 3)],
        [(2, 0, 4), (1, 0, 3)],
        [(2, 2, 4), (1, 2, 3)],
    ]
    assert all(torch.equal(*pair) for pair in zip(sent.row(2), sent.rows()[2], strict=True))
    assert sent.payload_bytes == tuple(n * (2 * 4 * 4 + 3 * 2) for n in LENGTHS)


def test_other_rows_keep_everything_else() -> None:
    sent = states()
    again = sent.with_rows([tuple(-part for part in row) for row in sent.rows()])
    assert isinstance(again, States)
    assert (again.layer, again.lengths) == (7, LENGTHS)
    assert all(torch.equal(-a, b) for a, b in zip(sent.parts, again.parts, strict=True))
    with pytest.raises(ValueError, match="another number of tokens"):
        sent.with_rows([sent.row(0), sent.row(0), sent.row(2)])
    with pytest.raises(UserError, match="a message of 3 questions was given 1 rows"):
        sent.with_rows(sent.rows()[:1])


def test_the_message_of_one_query() -> None:
    sent = States(states().parts, LENGTHS, layer=7, crossed=(30, 0, 20))
    one = sent.only(2)
    assert isinstance(one, States)
    assert (one.layer, one.lengths, one.payload_bytes) == (7, (2,), (20,))
    assert torch.equal(one.parts[0], sent.parts[0][:, 3:])
    assert TextMessage(("a", "bé"), ("q", "r")).only(1) == TextMessage(("bé",), ("r",))


def test_text_crosses_as_utf8_and_is_all_that_records_show() -> None:
    text = TextMessage(("naïve", "", "猫"), ("asked",) * 3)
    assert text.payload_bytes == tuple(len(t.encode("utf-8")) for t in text.texts) == (6, 0, 3)
    assert text.with_texts(["a", "b", "c"]).texts == ("a", "b", "c")
    assert texts_of(text) == text.texts
    with pytest.raises(UserError, match="a message of 3 questions was given 2 texts"):
        text.with_texts(["a", "b"])
    assert list(texts_of(states())) == list(texts_of(NoMessage(3))) == [None] * 3
