"""Questions that several subjects or tasks of a run ask: each is in one cluster for the statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.accuracy import Item


def with_clusters(items: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
    """Names one cluster for all items that ask the same question.

    Args:
        items: task -> its questions.

    Returns:
        The same; a question that stands in several subjects has the first of them by name as its cluster.
    """
    shared = shared_questions((item.document, _subject(item)) for item in _all(items))
    return {
        task: [replace(item, cluster=shared.get(question_of(item.document), "")) for item in members]
        for task, members in items.items()
    }


def shared_questions(asked: Iterable[tuple[Mapping[str, Any], str]]) -> dict[tuple[str, frozenset[str]], str]:
    """Returns question -> first subject by name, of every question that several subjects ask.

    Args:
        asked: documents with their subjects.
    """
    subjects: dict[tuple[str, frozenset[str]], set[str]] = {}
    for document, subject in asked:
        subjects.setdefault(question_of(document), set()).add(subject)
    return {question: min(names) for question, names in subjects.items() if len(names) > 1}


def _all(items: Mapping[str, list[Item]]) -> list[Item]:
    return [item for members in items.values() for item in members]


def _subject(item: Item) -> str:
    return f"{item.task}/{item.document.get('subject', '')}"


def question_of(document: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """A question with its options in any order, apart from case and white space."""
    return _words(document.get("question", "")), frozenset(map(_words, document.get("choices") or ()))


def _words(text: object) -> str:
    return " ".join(str(text).casefold().split())
