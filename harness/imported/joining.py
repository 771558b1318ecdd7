"""Rows of others beside our questions: joined where they say which question they are, else a set of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.benchmarks.answer_parsing import PAPER_OPTIONS
from harness.benchmarks.documents import Document
from harness.errors import UserError
from harness.imported.questions import Asked, comparable_text, listed_fewer
from harness.imported.rows import Answer, Row, answer_of, check_mark


@dataclass(frozen=True)
class Item:
    """A question that somebody answered.

    Attributes:
        options: 0 where their number is not known.
    """

    id: str
    key: str
    subject: str = ""
    options: int = 0
    cluster: str = ""


@dataclass(frozen=True)
class Joined:
    """Rows with their questions and what was answered.

    Attributes:
        items: in our order where joined, else in that of the file.
        answers: arm as the file names it -> id -> row and answer.
        joined_by: fields that agree with ours; empty where the rows are a set of their own.
        of_questions: questions of our task; None where not joined.
        cut_options: questions of which the file lists the first options alone.
        own_ids: whether rows that are not joined are named by their source.
        right: one a row, in the order in which they were given.
    """

    items: list[Item]
    answers: dict[str, dict[str, tuple[Row, Answer]]]
    joined_by: list[str]
    of_questions: int | None = None
    cut_options: int = 0
    own_ids: bool = False
    right: list[bool] = field(default_factory=list)


def join(rows: Sequence[Row], asked: Asked | None) -> Joined:
    """Checks rows and lays them beside our questions.

    Args:
        rows: of all files of one whole.
        asked: our questions; None for a task that is none of ours.

    Raises:
        UserError: if a row does not agree with our question or with itself, an arm answers a question twice, or only
            some rows say which question they are.
    """
    named = [row for row in rows if row.named]
    if named and len(named) < len(rows):
        lost = next(row for row in rows if not row.named)
        raise UserError(f"{lost.place} says neither id nor question, but other rows do; all of them or none have to.")
    return _joined(rows, asked) if named and asked is not None else _alone(rows)


def _joined(rows: Sequence[Row], asked: Asked) -> Joined:
    answers: dict[str, dict[str, tuple[Row, Answer]]] = {}
    found: set[str] = set()
    cut: set[str] = set()
    right = []
    for row in rows:
        document = asked.find(row)
        if listed_fewer(row, document):
            cut.add(document["id"])
        options = len(row.choices or document["choices"])
        right.append(_take(answers, row, document["id"], document["key"], options))
        _check_letter(row, answers[row.arm][document["id"]][1], document)
        found.add(document["id"])
    items = [
        Item(doc_id, one["key"], one["subject"], len(one["choices"]), asked.clusters.get(doc_id, ""))
        for doc_id, one in asked.documents.items()
        if doc_id in found
    ]
    return Joined(items, answers, asked.agreed(rows), len(asked.documents), len(cut), right=right)


def _check_letter(row: Row, answer: Answer, document: Document) -> None:
    labels = document["labels"]
    if answer.letter is not None and answer.letter not in labels:
        raise UserError(
            f"{row.place} answers {answer.letter}, but question {document['id']} has the letters {', '.join(labels)}; "
            "mend the letter, or leave it empty for no answer."
        )


def _alone(rows: Sequence[Row]) -> Joined:
    answers: dict[str, dict[str, tuple[Row, Answer]]] = {}
    items: dict[str, Item] = {}
    asked: dict[str, int] = {}
    right = []
    for row in rows:
        number = asked[row.arm] = asked.get(row.arm, -1) + 1
        doc_id = _own_id(row) or str(number)
        if row.key is None:
            raise UserError(f"{row.place} says no key, and its question is none of ours; the key is needed.")
        item = Item(doc_id, row.key, row.subject, len(row.choices or ()))
        if items.setdefault(doc_id, item) != item:
            raise UserError(f"{row.place} says another key or subject of question {doc_id} than a row before.")
        right.append(_take(answers, row, doc_id, row.key, len(row.choices or ()) or PAPER_OPTIONS))
    return Joined(list(items.values()), answers, [], own_ids=rows[0].named, right=right)


def _own_id(row: Row) -> str:
    """What a row's source calls its question, or a digest of its text; empty where it says neither."""
    if row.id is not None:
        return row.id
    if row.index is not None:
        return f"{row.subject}-{row.index}".lstrip("-")
    return "" if row.question is None else hashlib.sha256(comparable_text(row.question).encode()).hexdigest()[:12]


def _take(answers: dict[str, dict[str, tuple[Row, Answer]]], row: Row, doc_id: str, key: str, options: int) -> bool:
    """Reads a row's answer into its place, and returns whether it is right."""
    answer = answer_of(row, options)
    check_mark(row, answer, key)
    own = answers.setdefault(row.arm, {})
    if doc_id in own:
        raise UserError(f"{row.place} answers question {doc_id}, which {own[doc_id][0].place} answers already.")
    own[doc_id] = (row, answer)
    return answer.letter == key
