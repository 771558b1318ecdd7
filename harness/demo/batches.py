"""Training batches of the world: rows of one length, so nothing is padded and nothing masked.

A batch carries, for every position, the token to be predicted there: the letter can be asked for on
every token after the options, which puts the answer into the caches early enough to be passed on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.demo.tokenizer import render
from harness.demo.wording import note, note_chat, question_chat
from harness.demo.world import COLORS, Fact, Question, ask

IGNORED = -100
TAIL_TOKENS = 6  # "pick one letter . <|end|> <|assistant|>"


class Batch(NamedTuple):
    """Token ids and what to predict at each of them.

    Attributes:
        ids: ``[batch, tokens]``.
        targets: ``[batch, tokens]``, the token to predict at each position or ``IGNORED``.
    """

    ids: Tensor
    targets: Tensor


def draw(facts: Sequence[Fact], count: int, rng: random.Random) -> list[Question]:
    """Draws questions on random facts."""
    return [ask(rng.choice(facts), rng) for _ in range(count)]


def letter_batch(
    tokenizer: Any, questions: Sequence[Question], hints: Sequence[str] | None = None, tail_tokens: int = 1
) -> Batch:
    """Questions answered by a letter and the end token; the question mark is to bring the colour to mind.

    Args:
        tokenizer: of the world.
        questions: to ask, one a row.
        hints: a colour a row that an earlier note claims, or None for no note.
        tail_tokens: on how many of the prompt's last tokens the letter is to be predicted.
    """
    prompts = render(tokenizer, [question_chat(q, hints[i] if hints else None) for i, q in enumerate(questions)])
    batch = replies(tokenizer, prompts, [q.key for q in questions], tail_tokens)
    colors = tokenizer.convert_tokens_to_ids([q.fact.color for q in questions])
    mark = len(prompts[0]) - TAIL_TOKENS - 2 * len(questions[0].choices) - 1
    batch.targets[:, mark] = torch.tensor(colors)
    return batch


def hinted_batch(tokenizer: Any, facts: Sequence[Fact], count: int, rng: random.Random, tail_tokens: int = 1) -> Batch:
    """Questions after a note with a made-up colour, which is the answer to give."""
    made_up = [replace(rng.choice(facts), color=rng.choice(COLORS)) for _ in range(count)]
    questions = [ask(fact, rng) for fact in made_up]
    return letter_batch(tokenizer, questions, [fact.color for fact in made_up], tail_tokens)


def note_batch(tokenizer: Any, facts: Sequence[Fact]) -> Batch:
    """Requests for a note, answered by the sentence and the end token."""
    return replies(tokenizer, render(tokenizer, [note_chat(f) for f in facts]), [note(f) for f in facts])


def replies(tokenizer: Any, prompts: Sequence[list[int]], texts: Sequence[str], tail_tokens: int = 1) -> Batch:
    """Joins prompts and replies of one length each; the reply's first token is asked for on the whole tail."""
    prompt = torch.tensor(prompts)  # [batch, prompt]
    reply = torch.tensor(tokenizer(list(texts), add_special_tokens=False)["input_ids"])  # [batch, reply]
    end = torch.full_like(reply[:, :1], tokenizer.eos_token_id)
    silent = torch.full_like(prompt[:, tail_tokens:], IGNORED)
    first = reply[:, :1].expand(-1, tail_tokens)
    targets = torch.cat([silent, first, reply[:, 1:], end], dim=1)
    return Batch(torch.cat([prompt, reply], dim=1), targets)
