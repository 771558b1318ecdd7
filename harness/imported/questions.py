"""Our questions as results of others are joined to them: by id, by place in the data set, or by text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.benchmarks.definitions import BENCHMARKS, Benchmark
from harness.benchmarks.documents import Document, read_questions
from harness.benchmarks.duplicates import question_of, shared_questions
from harness.errors import UserError, suggest
from harness.imported.rows import Row

LETTERS = "_letters"
_LEAST_LISTED = 4  # options that the original's evaluator lists of a question that has more
_FIELDS = ("id", "question", "options", "key", "subject")


def benchmark_of(task: str) -> Benchmark | None:
    """Returns the benchmark behind one of our whole tasks, in either form; None where it is none of ours."""
    return BENCHMARKS.get(task.removesuffix(LETTERS))


def whole_tasks() -> list[str]:
    """Names of the tasks whose questions can be joined."""
    return sorted(name + form for name in BENCHMARKS for form in ("", LETTERS))


@dataclass
class Asked:
    """The questions of one of our benchmarks.

    Attributes:
        task: one of our whole tasks.
        documents: id -> question, in order.
        places: (subject, number of the row) -> id.
        left_out: the same -> why the benchmark does not ask it.
        texts: question, as it is compared -> ids.
        clusters: id -> cluster, of questions that several subjects ask.
    """

    task: str
    documents: dict[str, Document] = field(default_factory=dict)
    places: dict[tuple[str, int], str] = field(default_factory=dict)
    left_out: dict[tuple[str, int], str] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)

    def find(self, row: Row) -> Document:
        """Returns the question of a row.

        Raises:
            UserError: if there is none, several have its text, or whatever else the row says of it does not agree.
        """
        document = self._found(row)
        for name, theirs, ours in _differences(row, document):
            raise UserError(
                f"{row.place} differs from our question {document['id']} of {self.task} in its {name}: "
                f"{_around(theirs, ours)} there, {_around(ours, theirs)} here; what does not agree is not imported."
            )
        return document

    def agreed(self, rows: Iterable[Row]) -> list[str]:
        """Names the fields that every row says and that therefore agree."""
        listed = list(rows)
        told = {
            "id": lambda row: row.id is not None or row.index is not None,
            "question": lambda row: row.question is not None,
            "options": lambda row: row.choices is not None,
            "key": lambda row: row.key is not None,
            "subject": lambda row: bool(row.subject),
        }
        return [name for name in _FIELDS if all(told[name](row) for row in listed)]

    def _found(self, row: Row) -> Document:
        if row.index is not None:
            return self._at((row.subject, row.index), row.place)
        if row.id is not None:
            if row.id not in self.documents:
                near = suggest(row.id, self.documents)
                raise UserError(f"{row.place}: {self.task} has no question with the id {row.id!r}.{near}")
            return self.documents[row.id]
        ids = self.texts.get(comparable_text(row.question or ""), [])
        if row.choices is not None:
            ids = [one for one in ids if not _options_differ(row.choices, self.documents[one]["choices"])]
        if row.subject:
            ids = [one for one in ids if self.documents[one]["subject"] == row.subject] or ids
        if len(ids) != 1:
            found = f"{len(ids)} questions" if ids else "no question"
            raise UserError(f"{row.place}: {found} of {self.task} with the text {_short(row.question or '')}.")
        return self.documents[ids[0]]

    def _at(self, place: tuple[str, int], where: str) -> Document:
        named = f"question {place[1]}{f' of {place[0]}' if place[0] else ''}"
        if place in self.left_out:
            raise UserError(f"{where}: {self.task} does not ask {named} ({self.left_out[place]}).")
        if place not in self.places:
            raise UserError(f"{where}: {self.task} has no {named}.")
        return self.documents[self.places[place]]


def load_asked(task: str, benchmark: Benchmark, datasets_dir: str | None = None) -> Asked:
    """Reads the questions of a benchmark.

    Args:
        task: its form that was answered.
        benchmark: ours.
        datasets_dir: folder of local copies; None = what the environment says, else the hub.

    Raises:
        UserError: if the data is not there or malformed.
    """
    asked = Asked(task)
    subjects = [subject for members in benchmark.subjects.values() for subject in members]
    for config in subjects or [benchmark.config]:
        subject = config if benchmark.subjects else ""
        for index, (document, candidate) in enumerate(read_questions(benchmark, config, datasets_dir)):
            if candidate.left_out:
                asked.left_out[subject, index] = candidate.left_out
                continue
            asked.documents[document["id"]] = document
            asked.places[subject, index] = document["id"]
            asked.texts.setdefault(comparable_text(document["question"]), []).append(document["id"])
    asked.clusters = _clusters(asked)
    return asked


def comparable_text(text: str) -> str:
    """Returns what two copies of a text have in common.

    Copies of a data set differ in white space and in signs outside ASCII that are neither letters nor digits, such as
    dashes, quotation marks and what an encoding has broken; those are left out. Everything else counts.
    """
    return "".join(sign for sign in text if sign.isalnum() or (sign.isascii() and sign.isprintable() and sign != " "))


def listed_fewer(row: Row, document: Document) -> bool:
    """Whether a row lists the first of its question's options alone."""
    return row.choices is not None and len(row.choices) < len(document["choices"])


def _differences(row: Row, document: Document) -> list[tuple[str, str, str]]:
    """What a row says of its question otherwise than we do: field, theirs, ours."""
    found = []
    if row.question is not None and comparable_text(row.question) != comparable_text(document["question"]):
        found.append(("question", row.question, document["question"]))
    if row.choices is not None and (pair := _options_differ(row.choices, document["choices"])):
        found.append(("options", *pair))
    if row.key is not None and row.key != document["key"]:
        found.append(("key", row.key, document["key"]))
    if row.subject and row.subject != document["subject"]:
        found.append(("subject", row.subject, document["subject"]))
    return found


def _options_differ(theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, str] | None:
    """The first options that differ; the first four of more are all that some files list."""
    for one, other in zip(theirs, ours, strict=False):
        if comparable_text(one) != comparable_text(other):
            return one, other
    fewest = min(len(ours), _LEAST_LISTED)
    if fewest <= len(theirs) <= len(ours):
        return None
    return f"{len(theirs)} options", f"{len(ours)} options"


def _clusters(asked: Asked) -> dict[str, str]:
    listed = [(one, f"{asked.task}/{one['subject']}") for one in asked.documents.values()]
    shared = shared_questions(listed)
    named = ((one["id"], shared.get(question_of(one), "")) for one, _ in listed)
    return {doc_id: cluster for doc_id, cluster in named if cluster}


def _around(text: str, other: str) -> str:
    """The part of a text where it begins to differ from another."""
    equal = next((n for n, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), len(other))
    start = max(0, equal - 20)
    return repr(f"{'...' if start else ''}{text[start : start + 60]}{'...' if len(text) > start + 60 else ''}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
