"""Measures a pair's answers in batches, for its trainer, its tests and for ways of answering outside the channels.

Guarantees the prompts, positions and fused tokens of the harness proper, whose answers a test compares with these. All
replies are decoded greedily: the receiver says places, as many as the form has, and then the likeliest of the four
letters is its answer; the sharer replies with a letter at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.factworld_build.fuser import extend_cache, fused_cache, prefill
from harness.factworld_build.world import END, LABELS
from harness.fusers.interface import FuserModule
from harness.relay_build.lessons import Codec
from harness.relay_build.questions import Question

Change = Callable[[Tensor], Tensor]
"""What a control makes of the messages, `[2 (K, V), layers, rows, tokens, heads * head_dim]`."""


@dataclass(frozen=True)
class Answers:
    """Replies to questions of one form.

    Attributes:
        said: token ids before the letter `[rows, words]`.
        letters: log-probabilities of the four letters where one is due `[rows, 4]`.
    """

    said: Tensor
    letters: Tensor

    def right(self, questions: Sequence[Question]) -> Tensor:
        """Whether the likeliest letter is the right one `[rows]`."""
        return self.letters.argmax(-1) == torch.tensor([question.key for question in questions])

    def accuracy(self, questions: Sequence[Question]) -> float:
        """Part of the questions that are answered rightly."""
        return float(self.right(questions).double().mean())


@dataclass(frozen=True)
class Judge:
    """Asks one pair; all questions of a call are of one form.

    Attributes:
        receiver: the model that answers.
        sharer: the model that helps.
        codec: of both.
    """

    receiver: Any
    sharer: Any
    codec: Codec

    def alone(self, model: Any, questions: Sequence[Question]) -> Answers:
        """A model without help."""
        words = len(questions[0].names) if model is self.receiver else 0
        return self._prompted(model, [question.prompt() for question in questions], words)

    def told(self, questions: Sequence[Question]) -> Answers:
        """The receiver with the places written in the stead of the names."""
        prompts = [question.prompt(question.places) for question in questions]
        return self._prompted(self.receiver, prompts, len(questions[0].names))

    def noted(self, questions: Sequence[Question], notes: Sequence[str]) -> Answers:
        """The receiver behind a note, which may be of another length for every question."""
        answers: dict[int, Answers] = {}
        lengths = [len(note.split()) for note in notes]
        words = len(questions[0].names)
        for length in sorted(set(lengths)):
            rows = [row for row, found in enumerate(lengths) if found == length]
            part = self._prompted(self.receiver, [questions[r].noted_prompt(notes[r]) for r in rows], words)
            answers |= {row: Answers(part.said[i], part.letters[i]) for i, row in enumerate(rows)}
        ordered = [answers[row] for row in range(len(questions))]
        return Answers(torch.stack([a.said for a in ordered]), torch.stack([a.letters for a in ordered]))

    @torch.no_grad()
    def notes(self, questions: Sequence[Question], most_tokens: int) -> list[str]:
        """What the sharer writes, greedily, in at most so many tokens."""
        ids = self._ids([question.note_prompt() for question in questions])
        past, seen = prefill(self.sharer, ids[:, :-1]), ids[:, -1:]
        for _ in range(most_tokens):
            seen = torch.cat([seen, extend_cache(self.sharer, past, seen)[:, -1:].argmax(-1)], 1)
        return [self.codec.decode(row).split(END)[0].strip() for row in seen[:, 1:].tolist()]

    @torch.no_grad()
    def fused(
        self,
        fuser: FuserModule,
        questions: Sequence[Question],
        donors: Sequence[Question] | None = None,
        change: Change | None = None,
    ) -> Answers:
        """The receiver behind the fused cache: all prompt tokens but the last are fused.

        Args:
            fuser: from sharer to receiver.
            questions: to ask.
            donors: questions whose messages are sent in place of their own.
            change: is applied to the messages.
        """
        ids = self._ids([question.prompt() for question in questions])
        sent = self._ids([question.prompt() for question in donors or questions])
        message = prefill(self.sharer, sent[:, :-1])
        own = prefill(self.receiver, ids[:, :-1])
        past = fused_cache(fuser, own, message if change is None else change(message))
        return self._decoded(self.receiver, past, ids[:, -1:], len(questions[0].names))

    @torch.no_grad()
    def forced(self, questions: Sequence[Question]) -> Answers:
        """The receiver with names in its slots and the right places put into its reply: where its letter comes from."""
        ids = self._ids([f"{q.prompt()} {' '.join(q.places)}" for q in questions])
        logits = self.receiver(ids).logits[:, -1].log_softmax(-1)
        return Answers(ids[:, -len(questions[0].places) :], logits[:, self._labels])

    @torch.no_grad()
    def together(self, questions: Sequence[Question], rule: str) -> Answers:
        """Both models write one reply: at each token their next-token probabilities are merged by `mean` or `product`.

        The first letter that is written is the answer; without one, the likeliest at the end.
        """
        ids = self._ids([question.prompt() for question in questions])
        models = (self.receiver, self.sharer)
        pasts, seen = [prefill(model, ids[:, :-1]) for model in models], ids[:, -1:]
        for _ in range(len(questions[0].names) + 1):
            logits = [extend_cache(model, past, seen)[:, -1] for model, past in zip(models, pasts, strict=True)]
            both = torch.stack(logits).log_softmax(-1)
            merged = both.logsumexp(0) if rule == "mean" else both.sum(0)
            seen = torch.cat([seen, merged.argmax(-1, keepdim=True)], 1)
        letters = merged[:, self._labels]
        for row, written in enumerate(seen[:, 1:].tolist()):
            found = [self._labels.index(token) for token in written if token in self._labels]
            if found:
                letters[row] = F.one_hot(torch.tensor(found[0]), len(LABELS)).log()
        return Answers(seen[:, 1:-1], letters)

    @property
    def _labels(self) -> list[int]:
        return self.codec.of(LABELS)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([self.codec.encode(text) for text in texts])

    @torch.no_grad()
    def _prompted(self, model: Any, prompts: Sequence[str], words: int) -> Answers:
        ids = self._ids(prompts)
        return self._decoded(model, prefill(model, ids[:, :-1]), ids[:, -1:], words)

    def _decoded(self, model: Any, past: Tensor, last: Tensor, words: int) -> Answers:
        seen = last
        for _ in range(words):
            seen = torch.cat([seen, extend_cache(model, past, seen)[:, -1:].argmax(-1)], 1)
        final = extend_cache(model, past, seen)[:, -1].log_softmax(-1)
        return Answers(seen[:, 1:], final[:, self._labels])


def said_rightly(judge: Judge, answers: Answers, questions: Sequence[Question]) -> float:
    """Part of the places that were said rightly."""
    homes = torch.tensor([judge.codec.of(question.places) for question in questions])
    return float((answers.said == homes).double().mean())
