"""Validation while training: a task's accuracy through the channel as it is evaluated, and the loss on held-out rows.

Guarantees the harness's own engine, prompts and scorer, with hard gates; a question that cannot be scored counts as
an error in the denominator, never as a right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.channels.base import Query, Work
from harness.channels.c2c import CacheToCache
from harness.engine import Answer, Arm, Budget, Request, run
from harness.errors import UserError
from harness.prompts import ask
from harness.scoring import ScoreError


@dataclass(frozen=True)
class Score:
    """Questions asked, how many were right, and how many failed."""

    asked: int
    right: float
    errors: int


@dataclass(frozen=True)
class Quiz:
    """Questions of one task with their requests."""

    name: str
    task: Any
    documents: tuple[Any, ...]
    requests: tuple[Request, ...]


def load_quizzes(names: Sequence[str], limit: int | None, rank: int = 0, world: int = 1) -> list[Quiz]:
    """Loads tasks and this process's share of their questions.

    Raises:
        UserError: if a name is unknown or a task's data is missing.
    """
    if not names:
        return []
    from tasks import index

    quizzes = []
    for task in index.load(names):
        documents = list(task.eval_docs)[:limit][rank::world]
        requests = tuple(_request(task, document) for document in documents)
        quizzes.append(Quiz(str(task.config.task), task, tuple(documents), requests))
    return quizzes


def score(quiz: Quiz, channel: CacheToCache, batch_size: int) -> Score:
    """Asks a quiz through a channel."""
    right, errors = 0.0, 0
    for outcome in run(channel, [Arm(channel)], quiz.requests, Budget(batch_size), [Work()]):
        for place, answer in zip(outcome.indices, outcome.answers[0], strict=True):
            verdict = _verdict(quiz, place, answer)
            right, errors = right + (verdict or 0.0), errors + (verdict is None)
    return Score(len(quiz.requests), right, errors)


def _verdict(quiz: Quiz, place: int, answer: Answer) -> float | None:
    if answer.fault is not None:
        return None
    results = [(s.loglikelihood, s.greedy) for s in answer.scored] if answer.scored else [answer.text or ""]
    try:
        return float(quiz.task.process_results(quiz.documents[place], results)["acc"])
    except ScoreError:
        return None


def _request(task: Any, document: Any) -> Request:
    config = task.config
    query = Query(ask(task.doc_to_text(document), prefix=config.gen_prefix or ""), question=document["question"])
    if config.output_type == "multiple_choice":
        return Request(query, tuple(f"{config.target_delimiter}{choice}" for choice in task.doc_to_choice(document)))
    if config.output_type != "generate_until":
        raise UserError(f"Task {config.task!r} yields {config.output_type}; validate on letters or generated answers.")
    settings = config.generation_kwargs
    return Request(query, max_new_tokens=int(settings["max_gen_toks"]), stops=tuple(settings["until"]))
