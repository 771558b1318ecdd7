"""Questions that several subjects or tasks of a run ask: each is in one cluster for the statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.accuracy import Item


def with_clusters(items: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
    """Names one cluster for all items that ask the same question.

    Args:
        items: task -> its questions.

    Returns:
        The same; a question that stands in several subjects has the first of them by name as its cluster.
    """
    subjects: dict[tuple[str, frozenset[str]], set[str]] = {}
    for item in _all(items):
        subjects.setdefault(_question(item.document), set()).add(_subject(item))
    shared = {question: min(names) for question, names in subjects.items() if len(names) > 1}
    return {
        task: [replace(item, cluster=shared.get(_question(item.document), "")) for item in members]
        for task, members in items.items()
    }


def _all(items: Mapping[str, list[Item]]) -> list[Item]:
    return [item for members in items.values() for item in members]


def _subject(item: Item) -> str:
    return f"{item.task}/{item.document.get('subject', '')}"


def _question(document: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """A question with its options in any order, apart from case and white space."""
    return _words(document.get("question", "")), frozenset(map(_words, document.get("choices") or ()))


def _words(text: object) -> str:
    return " ".join(str(text).casefold().split())
