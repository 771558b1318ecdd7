"""Questions that several subjects or tasks of a run ask: each is in one cluster for the statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def shared_questions(asked: Iterable[tuple[Mapping[str, Any], str]]) -> dict[tuple[str, frozenset[str]], str]:
    """Returns question -> first subject by name, of every question that several subjects ask.

    Args:
        asked: documents with their subjects.
    """
    subjects: dict[tuple[str, frozenset[str]], set[str]] = {}
    for document, subject in asked:
        subjects.setdefault(question_of(document), set()).add(subject)
    return {question: min(names) for question, names in subjects.items() if len(names) > 1}


def question_of(document: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """A question with its options in any order, apart from case and white space."""
    return _words(document.get("question", "")), frozenset(map(_words, document.get("choices") or ()))


def _words(text: object) -> str:
    return " ".join(str(text).casefold().split())
