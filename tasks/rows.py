"""How each dataset writes a question: raw row -> candidate document, and the rows a benchmark leaves out.

Guarantees that a reader never judges: odd values pass through for `tasks.documents` to refuse. A row
that the protocol leaves out is marked with the reason and still has to be well formed, so a broken
row cannot hide behind a filter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from harness.errors import UserError, suggest
from tasks.local_copies import Row

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
