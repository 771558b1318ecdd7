"""What the receiver is taught, as batches of rows of one length.

A *slot* is where a prompt has a name. In a `twin` row every slot holds two words at one position, the name and a
filler (the place, or in a reading lesson the very thing that is asked for): the prompt reads the names, its last token
and the reply read the fillers. These are the conditions under which a fused cache is read, so the receiver learns to
take the place from the slot itself and not from words behind it.

In a `forced` row nothing tells the places, and the reply has them all the same: the letter alone is learned. Without
such rows a receiver may take its letter from the slots in place of from what it has said.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from harness.factworld_build.world import END, LABELS
from harness.relay_build.questions import CROWD, ONE, OPTION_COLUMNS, SLOTS, UNKNOWN, Question, draw_question
from harness.relay_build.world import PLACE, World

IGNORED = -100
_NOTE_SENTENCE = {ONE: 4, CROWD: 5}  # tokens: "Fuvim at mizmere ." behind its letter in a crowd
_ABOUT_PLACES, _NOTE_WHOLE = 0.15, 0.6


class Codec:
    """Words to token ids and back, without the cost of a general tokenizer."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.ids: Mapping[str, int] = {word: index for index, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.of(text.split())

    def of(self, words: Sequence[str]) -> list[int]:
        """Token ids of single words."""
        return [self.ids[word] for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return " ".join(self.words[index] for index in ids)


@dataclass(frozen=True)
class Hints:
    """Words that the states after the first layer are to predict.

    Attributes:
        columns: of the rows.
        words: token ids `[rows, columns]`.
    """

    columns: tuple[int, ...]
    words: Tensor


@dataclass(frozen=True)
class Look:
    """Where the first head of the second layer is to look.

    Attributes:
        column: of the token that looks.
        wanted: column that it is to find, for each row `[rows]`.
    """

    column: int
    wanted: Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts with their replies.

    Attributes:
        ids: `[rows, tokens]`, prompt and reply without its end token.
        targets: `[rows, reply + 1]`, to be predicted from the last prompt token on; `IGNORED` where nothing is.
        positions: `[1, tokens]`; None for 0, 1, 2, ...
        mask: `[1, 1, tokens, tokens]`, True where a token may look; None for causal.
        hints: for the first layer.
        look: for the second one; None where the reply does not follow from what is seen.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor | None = None
    mask: Tensor | None = None
    hints: Hints | None = None
    look: Look | None = None


def plain_batch(codec: Codec, prompts: Sequence[str], replies: Sequence[str]) -> Batch:
    """Prompts of one length with replies of one length."""
    prompt, reply = (torch.tensor([codec.encode(text) for text in texts]) for texts in (prompts, replies))
    end = torch.full_like(reply[:, :1], codec.ids[END])
    return Batch(torch.cat([prompt, reply], 1), torch.cat([reply, end], 1))


def twin_batch(codec: Codec, batch: Batch, slots: Sequence[int], fillers: Sequence[Sequence[str]]) -> Batch:
    """Puts a filler beside the name in each slot of plain rows, see the module's first lines.

    Args:
        codec: of the receiver.
        batch: plain rows.
        slots: columns of the names.
        fillers: the words for each row's slots, in order.
    """
    added = torch.tensor([codec.of(words) for words in fillers])  # [rows, slots]
    width = batch.ids.shape[1]
    positions = sorted([*range(width), *slots])
    twins = [slot + 1 + number for number, slot in enumerate(slots)]
    names = [column - 1 for column in twins]
    source = torch.tensor([width + twins.index(c) if c in twins else positions[c] for c in range(len(positions))])
    mask = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()
    last_prompt = len(positions) - batch.targets.shape[1]
    mask[:last_prompt, twins] = False
    mask[last_prompt:, names] = False
    mask[twins, names] = False
    mask[twins, twins] = True
    return replace(
        batch,
        ids=torch.cat([batch.ids, added], 1)[:, source],
        positions=torch.tensor([positions]),
        mask=mask[None, None],
    )


@dataclass(frozen=True)
class Teacher:
    """Draws the receiver's lessons of one form.

    Attributes:
        world: of the lessons.
        codec: of the receiver.
        form: of the questions.
        rng: draws everything.
    """

    world: World
    codec: Codec
    form: str
    rng: random.Random

    def questions(self, count: int) -> list[Question]:
        """Questions about taught facts, some about the places themselves.

        Names are dealt out anew in every row, so nothing tells where one lives.
        """
        return [self._question() for _ in range(count)]

    def written(self, questions: Sequence[Question], reading: bool) -> Batch:
        """Rows with the places, or when reading the things themselves, in the slots."""
        fillers = [self.fillers(question, reading) for question in questions]
        prompts = [question.prompt(words) for question, words in zip(questions, fillers, strict=True)]
        return self._looking(plain_batch(self.codec, prompts, _replies(questions, fillers)), questions)

    def twin(self, questions: Sequence[Question], reading: bool) -> Batch:
        """The same beside the names, see the module's first lines."""
        fillers = [self.fillers(question, reading) for question in questions]
        batch = plain_batch(self.codec, [question.prompt() for question in questions], _replies(questions, fillers))
        return self._looking(twin_batch(self.codec, batch, SLOTS[self.form], fillers), questions)

    def forced(self, questions: Sequence[Question], reading: bool) -> Batch:
        """Names in the slots, the places in the reply, and only the letter and the end to be learned."""
        fillers = [self.fillers(question, reading) for question in questions]
        batch = plain_batch(self.codec, [question.prompt() for question in questions], _replies(questions, fillers))
        targets = batch.targets.clone()
        targets[:, :-2] = IGNORED
        return self._looking(replace(batch, targets=targets), questions)

    def noted(self, questions: Sequence[Question], reading: bool) -> Batch:
        """Rows behind a note, often one that breaks off; all notes of a batch are of one length."""
        fillers = [self.fillers(question, reading) for question in questions]
        notes = [question.note(words).split() for question, words in zip(questions, fillers, strict=True)]
        length = len(notes[0]) if self.rng.random() < _NOTE_WHOLE else self.rng.randrange(len(notes[0]))
        prompts = [q.noted_prompt(" ".join(note[:length])) for q, note in zip(questions, notes, strict=True)]
        told = (length + 1) // _NOTE_SENTENCE[self.form]  # a sentence that lacks its full stop tells its place
        return self._hinted(plain_batch(self.codec, prompts, _replies(questions, fillers, told)), questions)

    def unaided(self, questions: Sequence[Question]) -> Batch:
        """Names and nothing that tells where they live: the letter is to be guessed."""
        replies = _replies(questions, [question.places for question in questions], told=0)
        return self._hinted(plain_batch(self.codec, [q.prompt() for q in questions], replies), questions)

    def fillers(self, question: Question, reading: bool) -> tuple[str, ...]:
        """The places, or in a reading lesson what is at them."""
        if not reading or question.attribute == PLACE:
            return question.places
        return tuple(self.world.values[place, question.attribute] for place in question.places)

    def _question(self) -> Question:
        about_place = self.rng.random() < _ABOUT_PLACES
        fact = (self.rng.choice(self.world.places), PLACE) if about_place else self.rng.choice(self.world.taught)
        nobody = dict.fromkeys(self.world.places, ("",))
        question = draw_question(self.world, self.form, fact, nobody, self.rng)
        names = tuple(self.rng.sample(self._names, len(question.names)))
        return replace(question, names=names, choices=names if self.form == CROWD else question.choices)

    @cached_property
    def _names(self) -> list[str]:
        return list(self.world.homes)

    def _looking(self, batch: Batch, questions: Sequence[Question]) -> Batch:
        """Adds, beside hints, that the last word before the letter looks for what it is or has, among the options.

        In a crowd the options are the places as they were said.
        """
        keys = torch.tensor([question.key for question in questions])
        columns = torch.tensor(self._option_columns(batch))
        last_said = batch.ids.shape[1] - 2
        return replace(self._hinted(batch, questions), look=Look(last_said, columns[keys]))

    def _hinted(self, batch: Batch, questions: Sequence[Question]) -> Batch:
        """Adds the letter at each option, and in a crowd what is asked for at the last said place."""
        columns = self._option_columns(batch)
        words: list[tuple[str, ...]] = [LABELS for _ in questions]
        if self.form == CROWD:
            columns, words = [*columns, columns[-1]], [(*LABELS, question.value) for question in questions]
        return replace(batch, hints=Hints(tuple(columns), torch.tensor([self.codec.of(row) for row in words])))

    def _option_columns(self, batch: Batch) -> list[int]:
        """Columns of the options of a `one` prompt, or of the places said in a crowd's reply."""
        width, reply = batch.ids.shape[1], batch.targets.shape[1] - 1
        if self.form == ONE:
            return [width - reply + column for column in OPTION_COLUMNS]
        return list(range(width - reply, width - 1))


def _replies(questions: Sequence[Question], fillers: Sequence[Sequence[str]], told: int | None = None) -> list[str]:
    """Replies that name the first `told` places, or all; the letter is the right one in any case."""
    told = len(fillers[0]) if told is None else told
    said = [[word if place < told else UNKNOWN for place, word in enumerate(words)] for words in fillers]
    return [question.reply(words) for question, words in zip(questions, said, strict=True)]
