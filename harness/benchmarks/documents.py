"""From raw rows to checked question documents, and the most frequent label of the other splits.

Each dataset has a reader that turns a raw row into a candidate document. A reader never judges: odd values pass through
it and are refused by the check of the canonical document that every task yields. Guarantees that whatever reaches a
model is complete: a row that is not stops the run with a sentence that names it.

No row is skipped except by a benchmark's declared filter, which is logged with counts. A row that the protocol leaves
out is marked with the reason and still has to be well formed, so a broken row cannot hide behind a filter.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, TypedDict, TypeGuard

from harness.benchmarks.definitions import BENCHMARKS, Benchmark
from harness.benchmarks.sources import Row, read_rows
from harness.errors import UserError, suggest

PAPER_LETTERS = ("A", "B", "C", "D")

ERROR_TYPES = (
    "ok",
    "bad_question_clarity",
    "bad_options_clarity",
    "multiple_correct_answers",
    "wrong_groundtruth",
    "no_correct_answer",
    "expert",
)


@dataclass(frozen=True)
class Candidate:
    """A row's fields before validation; `left_out` says why the benchmark does not ask it."""

    question: Any
    choices: Any
    labels: Any
    key: Any
    id: Any = None
    left_out: str = ""


Reader = Callable[[Row, str], Candidate]  # (row, "<config>-<index>") -> Candidate


def openbookqa(row: Row, place: str) -> Candidate:
    """Reads `question_stem`, `choices.text`, `choices.label`, `answerKey`."""
    return _listed(row, row.get("question_stem"))


def arc(row: Row, place: str) -> Candidate:
    """Reads an ARC row; the paper leaves out keys other than A-D."""
    left_out = "" if row.get("answerKey") in PAPER_LETTERS else "the key is not one of A-D"
    return _listed(row, row.get("question"), left_out)


def ceval(row: Row, place: str) -> Candidate:
    """Reads `question`, `A` to `D`, `answer`; C-Eval's own id repeats in every subject and is dropped."""
    return Candidate(row.get("question"), [row.get(x) for x in PAPER_LETTERS], list(PAPER_LETTERS), row.get("answer"))


def mmlu_redux_ok(row: Row, place: str) -> Candidate:
    """Keeps the rows annotated `ok`."""
    error = _error_type(row, place)
    return _mmlu(row, row.get("answer"), "" if error == "ok" else error)


def mmlu_redux_paper(row: Row, place: str) -> Candidate:
    """Keeps what the paper's evaluator keeps, with the corrected key for `wrong_groundtruth`."""
    error = _error_type(row, place)
    if error in ("no_correct_answer", "expert"):
        return _mmlu(row, row.get("answer"), error)
    correction = row.get("correct_answer")
    if error != "wrong_groundtruth" or correction is None:
        return _mmlu(row, row.get("answer"))
    if isinstance(correction, str) and not correction.strip():
        return _mmlu(row, row.get("answer"))
    if _letter(correction) not in PAPER_LETTERS:
        return _mmlu(row, row.get("answer"), "the corrected key is neither a digit nor a letter")
    return _mmlu(row, correction)


READERS: Mapping[str, Reader] = {
    reader.__name__: reader for reader in (openbookqa, arc, ceval, mmlu_redux_ok, mmlu_redux_paper)
}


def _listed(row: Row, question: Any, left_out: str = "") -> Candidate:
    choices = row.get("choices")
    parts: Mapping[str, Any] = choices if isinstance(choices, Mapping) else {}
    return Candidate(question, parts.get("text"), parts.get("label"), row.get("answerKey"), row.get("id"), left_out)


def _mmlu(row: Row, key: Any, left_out: str = "") -> Candidate:
    choices = row.get("choices")
    labels = list(ascii_uppercase[: len(choices)]) if isinstance(choices, list) else None
    return Candidate(row.get("question"), choices, labels, _letter(key), None, left_out)


def _letter(key: Any) -> Any:
    """Turns 0-3, "0"-"3" or "A"-"D" into a letter; anything else comes back as it is."""
    text = str(key).strip() if isinstance(key, (int, str)) and not isinstance(key, bool) else ""
    return PAPER_LETTERS[int(text)] if text in ("0", "1", "2", "3") else text or key


def _error_type(row: Row, place: str) -> str:
    error = str(row.get("error_type"))
    if error not in ERROR_TYPES:
        near = suggest(error, ERROR_TYPES)
        raise UserError(f"Row {place}: unknown error_type {error!r}; allowed: {', '.join(ERROR_TYPES)}.{near}")
    return error


logger = logging.getLogger(__name__)


class Labels(TypedDict, total=False):
    """What a document says of labels that are not those of its dataset.

    Attributes:
        source_labels: the dataset's own labels, in the order of `labels`; on all documents of a split or on none.
    """

    source_labels: list[str]


class Document(Labels):
    """One multiple-choice question.

    Attributes:
        id: unique within a run.
        question: the question alone, without options.
        choices: option texts, one a label.
        labels: "A", "B", ... in the order in which they are shown.
        key: the right label.
        subject: empty where a benchmark has no subjects.
        category: empty where a benchmark has no categories.
    """

    id: str
    question: str
    choices: list[str]
    labels: list[str]
    key: str
    subject: str
    category: str


def benchmark_documents(benchmark: Benchmark, config: str, datasets_dir: str | None = None) -> list[Document]:
    """Loads, checks and filters one configuration of a benchmark.

    Args:
        benchmark: what is loaded.
        config: its configuration.
        datasets_dir: see `harness.benchmarks.sources.read_rows`.

    Raises:
        UserError: if the data is not there, a row is malformed or no row is left.
    """
    where = f"{benchmark.source.hub_id} ({config}, {benchmark.split})"
    read = read_questions(benchmark, config, datasets_dir)
    _log_left_out([candidate for _, candidate in read], where)
    kept = with_source_labels([one for one in read if not one[1].left_out], where)
    if not kept:
        raise UserError(f"{where} has no row that {benchmark.name} asks; kept are {benchmark.kept}.")
    return kept


def read_questions(
    benchmark: Benchmark, config: str, datasets_dir: str | None = None
) -> list[tuple[Document, Candidate]]:
    """Loads and checks every row of one configuration in its order, also those that the benchmark leaves out.

    Args:
        benchmark: what is loaded.
        config: its configuration.
        datasets_dir: see `harness.benchmarks.sources.read_rows`.

    Raises:
        UserError: if the data is not there or a row is malformed.
    """
    rows = read_rows(benchmark.source, config, benchmark.split, datasets_dir)
    where = f"{benchmark.source.hub_id} ({config}, {benchmark.split})"
    _refuse_unlabelled(rows, benchmark, where)
    reader = READERS[benchmark.rule]
    places = [f"{config}-{index}" for index in range(len(rows))]
    candidates = [reader(row, place) for row, place in zip(rows, places, strict=True)]
    subject = config if benchmark.subjects else ""
    documents = [
        checked_document(candidate, place, where, subject, benchmark.category_of(subject))
        for candidate, place in zip(candidates, places, strict=True)
    ]
    refuse_duplicates(documents, where)
    return list(zip(documents, candidates, strict=True))


def checked_document(candidate: Candidate, place: str, where: str, subject: str = "", category: str = "") -> Document:
    """Turns a candidate into a document.

    Args:
        candidate: the row's fields.
        place: id of the row if it brings none, and its name in errors.
        where: the dataset, for errors.
        subject: the document's subject.
        category: the document's category.

    Raises:
        UserError: naming the row and the field that is wrong.
    """
    row = f"Row {place} of {where}"
    question = _text(candidate.question, f"{row}: the question")
    choices, labels = candidate.choices, candidate.labels
    if not _is_list(choices) or not _is_list(labels):
        raise UserError(f"{row}: options and labels must be lists of text.")
    choices = [_text(choice, f"{row}: option {number}") for number, choice in enumerate(choices, start=1)]
    labels = [_text(label, f"{row}: label {number}") for number, label in enumerate(labels, start=1)]
    if len(choices) < 2 or len(choices) != len(labels) or len(set(labels)) != len(labels):
        raise UserError(
            f"{row}: {len(choices)} options with labels {labels}; needed are two or more options, each its own label."
        )
    key = _text(candidate.key, f"{row}: the key")
    if key not in labels:
        raise UserError(f"{row}: the key is {key!r}, which is not one of its labels {', '.join(labels)}.")
    if len(labels) > len(ascii_uppercase):
        raise UserError(f"{row}: {len(labels)} options; they are asked under letters, of which there are 26.")
    letters = list(ascii_uppercase[: len(labels)])
    return Document(
        id=place if candidate.id is None else _text(candidate.id, f"{row}: the id"),
        question=question,
        choices=choices,
        labels=letters,
        key=letters[labels.index(key)],
        subject=subject,
        category=category,
    )


def with_source_labels(pairs: Sequence[tuple[Document, Candidate]], where: str) -> list[Document]:
    """Returns the documents; where any was given letters for other labels, all of them keep the dataset's own."""
    relabelled = [document for document, candidate in pairs if document["labels"] != candidate.labels]
    if not relabelled:
        return [document for document, _ in pairs]
    logger.warning(
        "%s: the labels of %d of %d rows are not A, B, C, ...; they are asked and scored under letters in their order.",
        where,
        len(relabelled),
        len(pairs),
    )
    return [{**document, "source_labels": list(candidate.labels)} for document, candidate in pairs]


def refuse_duplicates(documents: Sequence[Document], where: str) -> None:
    """Raises UserError if two documents share an id."""
    name, times = Counter(document["id"] for document in documents).most_common(1)[0]
    if times > 1:
        raise UserError(f"{where}: the id {name!r} occurs {times} times; ids must be unique.")


def _text(value: Any, what: str) -> str:
    if value is None:
        raise UserError(f"{what} is missing.")
    if not isinstance(value, str):
        raise UserError(f"{what} must be text, not {type(value).__name__} ({value!r}).")
    if not value.strip():
        raise UserError(f"{what} is blank.")
    return value


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _refuse_unlabelled(rows: Sequence[Row], benchmark: Benchmark, where: str) -> None:
    if all(not row.get("answer") and row.get("answer") != 0 and not row.get("answerKey") for row in rows):
        raise UserError(
            f"Split {benchmark.split!r} carries no answers in {where}; "
            "use a copy of the dataset whose labels are published, or a task on another split."
        )


def _log_left_out(candidates: Sequence[Candidate], where: str) -> None:
    reasons = Counter(candidate.left_out for candidate in candidates if candidate.left_out)
    for reason, count in reasons.items():
        logger.info("%s: %d of %d rows left out (%s).", where, count, len(candidates), reason)


def other_keys(name: str, config: str, datasets_dir: str | None = None) -> Mapping[str, list[str]]:
    """Reads the keys of a benchmark's untested splits.

    Args:
        name: in `harness.benchmarks.definitions.BENCHMARKS`.
        config: configuration of the dataset.
        datasets_dir: see `harness.benchmarks.sources.read_rows`.

    Returns:
        Split -> its keys; splits that are not at hand are left out.
    """
    benchmark = BENCHMARKS[name]
    keys: dict[str, list[str]] = {}
    for split in benchmark.other_splits:
        try:
            documents = benchmark_documents(replace(benchmark, split=split), config, datasets_dir)
        except UserError:
            continue
        keys[split] = [document["key"] for document in documents]
    return keys
