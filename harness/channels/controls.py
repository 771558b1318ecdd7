"""Controls of the message: what a question gets in place of the message that was sent for it.

`mismatched`, `mean`, `zeroed` and `noise` remove everything that the question's own message said; `noise` is drawn with
each feature's mean and deviation over the tokens of another question's message. `shuffled_tokens` removes the order of
the tokens, and `noise_own` everything but each feature's mean and deviation over the message's own tokens: what a
message says on average, or by its tokens in any order, stays.

Guarantees that what a question gets under a control depends on the question and the seed alone, never on how questions
were batched. The question that lends its message is fixed before anything runs, see `harness.channels.engine`. A
control changes what the receiver would have read, that is, what a codec has decoded.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.channels.control_registry import ControlEntry
from harness.channels.messages import Message, TensorMessage, TextMessage
from harness.errors import UserError
from harness.inference.types import Query
from harness.registry import resolve

BANDS = 16
_EMPTY = "the other question's message is empty"


@dataclass(frozen=True)
class Given:
    """What a control has besides the message of a batch.

    Attributes:
        queries: the questions, in the order of the message.
        seed: of everything drawn.
        donors: where the control asks for it: for each question another question's message, of one query.
        mean: where the control asks for it: a part a sharer, `[entries, BANDS, features]`, see `band_means`.
    """

    queries: Sequence[Query]
    seed: int = 0
    donors: tuple[Message, ...] = ()
    mean: tuple[Tensor, ...] = ()

    def draws(self) -> list[int]:
        """A seed for each question, which depends on the question and the run's seed alone."""
        return [draw_of(self.seed, query) for query in self.queries]


@dataclass(frozen=True)
class Control:
    """A control of the message, ready for one task.

    Attributes:
        entry: which control.
        seed: of everything drawn.
        mean: see `Given`.
    """

    entry: ControlEntry
    seed: int = 0
    mean: tuple[Tensor, ...] = ()

    @property
    def lends(self) -> bool:
        """Whether each question needs another one's message."""
        return "donor" in self.entry.inputs

    def place(self, query: Query) -> int:
        """Orders questions whose prompts have the same length."""
        return draw_of(self.seed, query)

    def __call__(self, message: Message, queries: Sequence[Query], donors: Sequence[Message] = ()) -> Message:
        """Returns what the questions get in place of their message.

        Raises:
            TypeError: the control does not take such a message.
            UserError: it gives something else back, or not one for each question.
        """
        change = self._change(message)
        try:
            changed = change(message, Given(queries, self.seed, tuple(donors), self.mean))
        except UserError as error:
            raise UserError(f"Control {self.entry.name}: {error}") from error
        return self._whole(changed, message)

    def _whole(self, changed: Any, message: Message) -> Message:
        if isinstance(changed, type(message)) and len(changed) == len(message):
            return changed
        size = f" of {len(changed)}" if isinstance(changed, type(message)) else ""
        kind = type(message).__name__
        raise UserError(
            f"Control {self.entry.name} returns a {type(changed).__name__}{size} for a {kind} of {len(message)} "
            f"questions; return a {kind} of as many (message.with_rows, message.with_texts)."
        )

    def _change(self, message: Message) -> Callable[..., Message]:
        if isinstance(message, TextMessage) and self.entry.text:
            return resolve(self.entry.text)
        if isinstance(message, TensorMessage) and self.entry.tensors:
            return resolve(self.entry.tensors)
        raise TypeError(f"control {self.entry.name} does not take a {type(message).__name__}")


def check_lendable(message: Message) -> None:
    """Raises an exception where another question can be lent nothing of a message of one query.

    Raises:
        ValueError: it has no token.
        ArithmeticError: it holds numbers that are not finite.
    """
    if isinstance(message, TensorMessage):
        if not message.lengths[0]:
            raise ValueError(_EMPTY)
        if not all(bool(part.isfinite().all()) for part in message.parts):
            raise ArithmeticError("the other question's message holds numbers that are not finite")


def single_query(message: Message, place: int) -> Message:
    """Returns the message of one query of a batch.

    Raises:
        TypeError: it is neither text nor tensors, so that nothing of it can be lent.
    """
    if isinstance(message, TextMessage | TensorMessage):
        return message.only(place)
    raise TypeError(f"nothing can be lent of a {type(message).__name__}")


def lent_text(message: TextMessage, given: Given) -> TextMessage:
    """Gives each question the text of another one."""
    return message.with_texts([donor.texts[0] for donor in given.donors if isinstance(donor, TextMessage)])


def empty_text(message: TextMessage, given: Given) -> TextMessage:
    """Gives each question an empty text."""
    return message.with_texts([""] * len(message))


def shuffled_words(message: TextMessage, given: Given) -> TextMessage:
    """Gives each question its own words in another order."""
    texts = []
    for text, draw in zip(message.texts, given.draws(), strict=True):
        words = text.split()
        random.Random(draw).shuffle(words)  # noqa: S311 - reproducible, not secret
        texts.append(" ".join(words))
    return message.with_texts(texts)


def lend_messages(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question the message of another one, cropped or repeated to the length of its own."""
    donors = [donor.parts for donor in given.donors if isinstance(donor, TensorMessage)]
    return message.with_rows(
        [tuple(stretch_to(part, n) for part in parts) for parts, n in zip(donors, message.lengths, strict=True)]
    )


def mean(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question the task's mean message, by relative position."""
    return message.with_rows(
        [
            tuple(
                average[:, position_bands(own.shape[1], own.device)].to(own.dtype)
                for average, own in zip(given.mean, row, strict=True)
            )
            for row in message.rows()
        ]
    )


def zeros(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question zeros."""
    return message.with_rows([tuple(map(torch.zeros_like, row)) for row in message.rows()])


def noise(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question noise with the mean and deviation of another one's message."""
    donors = [donor.parts for donor in given.donors if isinstance(donor, TensorMessage)]
    return message.with_rows(
        [
            tuple(drawn_like(part, n, draw) for part in parts)
            for parts, n, draw in zip(donors, message.lengths, given.draws(), strict=True)
        ]
    )


def noise_own(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question noise with the mean and deviation of its own message."""
    rows = zip(message.rows(), given.draws(), strict=True)
    return message.with_rows([tuple(drawn_like(own, own.shape[1], draw) for own in row) for row, draw in rows])


def shuffle_tokens(message: TensorMessage, given: Given) -> TensorMessage:
    """Gives each question its own tokens in another order."""
    rows = zip(message.rows(), given.draws(), strict=True)
    return message.with_rows([tuple(_permuted(own, draw) for own in row) for row, draw in rows])


def _permuted(own: Tensor, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw)
    return own[:, torch.randperm(own.shape[1], generator=generator).to(own.device)]


def drawn_like(message: Tensor, tokens: int, seed: int) -> Tensor:
    """Normal noise `[entries, tokens, features]` with each feature's mean and deviation over a message's tokens.

    One head after another would need the head count here; a head's features are contiguous, so a mean and deviation for
    each feature match every head's in particular.
    """
    if message.shape[1] == 0:
        raise ValueError(_EMPTY)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((message.shape[0], tokens, message.shape[2]), generator=generator).to(message.device)
    moments = message.float()
    return (moments.mean(1, True) + drawn * moments.std(1, keepdim=True, correction=0)).to(message.dtype)


def stretch_to(donor: Tensor, tokens: int) -> Tensor:
    """A donor `[entries, its tokens, features]` cropped, or repeated from its start, to `tokens`."""
    if donor.shape[1] == 0:
        raise ValueError(_EMPTY)
    index = torch.arange(tokens, device=donor.device) % donor.shape[1]
    return donor[:, index]


def position_bands(tokens: int, device: torch.device) -> Tensor:
    """Position band of each of a message's tokens, by relative position."""
    return torch.arange(tokens, device=device) * BANDS // max(tokens, 1)


def band_means(messages: Iterable[TensorMessage]) -> tuple[Tensor, ...]:
    """Average message: a part a sharer, `[entries, BANDS, features]`, over all tokens of each band.

    Of the messages one at a time is held.
    """
    totals: tuple[Tensor, ...] = ()
    count: Tensor | int = 0
    for message in messages:
        where = torch.cat([position_bands(n, message.parts[0].device) for n in message.lengths])
        count = torch.bincount(where, minlength=BANDS) + count
        sums = [
            part.new_zeros(part.shape[0], BANDS, part.shape[2], dtype=torch.float32).index_add_(1, where, part.float())
            for part in message.parts
        ]
        totals = tuple(map(torch.add, totals, sums)) if totals else tuple(sums)
    return tuple(total / torch.as_tensor(count).clamp(min=1)[None, :, None] for total in totals)


def draw_of(seed: int, query: Query) -> int:
    """A number drawn by the seed and what the receiver is asked."""
    asked = f"{seed}\n{query.receiver.plain}".encode()
    return int.from_bytes(hashlib.sha256(asked).digest()[:7], "big")
