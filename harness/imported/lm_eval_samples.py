"""`samples_*.jsonl` of lm-evaluation-harness: generated texts, or loglikelihoods of the options.

A document is read by the rule of our benchmark, whether it is a row of the data set or one of our own documents. Of a
task with several filters one has to be named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from harness.benchmarks.definitions import Benchmark
from harness.benchmarks.documents import READERS, Candidate
from harness.errors import UserError, unknown
from harness.imported.rows import Row, number_of
from harness.imported.tables import json_rows

NEEDED = ("doc_id", "filtered_resps")
_MARKS = ("acc", "exact_match")
_OURS = ("id", "question", "choices", "labels", "key")


def read(path: Path, benchmark: Benchmark | None, wanted: str = "") -> Iterator[Row]:
    """Yields the rows of a file.

    Args:
        path: of the file.
        benchmark: ours that the file's documents belong to; None where we have none.
        wanted: filter whose answers are taken; empty = the only one.

    Raises:
        UserError: if a line cannot be read, or there are several filters and none was named.
    """
    lines = list(json_rows(path))
    filters = sorted({str(line.get("filter", "")) for _, line in lines})
    chosen = wanted or filters[0]
    if chosen not in filters:
        raise unknown("filter", chosen, filters)
    if not wanted and len(filters) > 1:
        raise UserError(f"{path.name} holds the filters {', '.join(filters)}; name one with --filter.")
    for place, line in lines:
        if str(line.get("filter", "")) == chosen:
            yield _row(place, line, benchmark)


def _row(place: str, line: Mapping[str, Any], benchmark: Benchmark | None) -> Row:
    answers = line.get("filtered_resps")
    if not isinstance(answers, list) or not answers:
        raise UserError(f"{place}: filtered_resps has to be a list of answers.")
    doc = line.get("doc")
    asked = _candidate(doc, benchmark, place) if isinstance(doc, Mapping) else None
    compared = _loglikelihoods(answers, place)
    letters = _letters(asked)
    return Row(
        place=place,
        subject=str(doc.get("subject", "")) if isinstance(doc, Mapping) and benchmark and benchmark.subjects else "",
        **_question(asked, line, benchmark),
        key=_key(asked, line, letters, place),
        letter=ascii_uppercase[compared.index(max(compared))] if compared else _recorded(answers),
        text=None if compared else _text(line, place),
        correct=_mark(line, place),
    )


def _candidate(doc: Mapping[str, Any], benchmark: Benchmark | None, place: str) -> Candidate | None:
    if all(name in doc for name in _OURS):
        return Candidate(doc["question"], doc["choices"], doc["labels"], doc["key"], doc["id"])
    return READERS[benchmark.rule](doc, place) if benchmark else None


def _question(asked: Candidate | None, line: Mapping[str, Any], benchmark: Benchmark | None) -> dict[str, Any]:
    """Which question it is: by id and text where the document says them, else by lm-eval's number."""
    if asked is None:
        return {} if benchmark else {"id": str(line["doc_id"])}
    choices = tuple(map(str, asked.choices)) if isinstance(asked.choices, list) else None
    found = {"question": asked.question if isinstance(asked.question, str) else None, "choices": choices}
    return {**found, "id": asked.id if isinstance(asked.id, str) else None}


def _letters(asked: Candidate | None) -> dict[str, str]:
    """The letter of each of the data set's labels."""
    labels = asked.labels if asked and isinstance(asked.labels, list) else []
    return dict(zip(map(str, labels), ascii_uppercase, strict=False))


def _key(asked: Candidate | None, line: Mapping[str, Any], letters: Mapping[str, str], place: str) -> str | None:
    """The document's key, and where it has none lm-eval's target: a letter or the option's number."""
    if asked is not None and asked.key is not None:
        return letters.get(str(asked.key), str(asked.key))
    target = str(line.get("target", "")).strip()
    if target.isdecimal() and int(target) < len(ascii_uppercase):
        return ascii_uppercase[int(target)]
    if len(target) == 1 and target in ascii_uppercase:
        return target
    raise UserError(f"{place}: the target is {target[:40]!r}; a letter or the number of an option is needed.")


def _loglikelihoods(answers: Sequence[Any], place: str) -> list[float]:
    """One number an option; empty where text was generated."""
    if len(answers) < 2 or not all(isinstance(answer, list) and len(answer) == 2 for answer in answers):
        return []
    return [number_of(str(answer[0]), place, "loglikelihood") for answer in answers]


def _recorded(answers: Sequence[Any]) -> str | None:
    """A letter that a filter took out of the text; None where the filter left the text as it was."""
    found = str(answers[0]).strip().strip("()")
    return found if len(found) == 1 and found in ascii_uppercase else None


def _text(line: Mapping[str, Any], place: str) -> str:
    answers = line.get("resps")
    first = answers[0] if isinstance(answers, list) and answers else None
    text = first[0] if isinstance(first, list) and first else first
    if not isinstance(text, str):
        raise UserError(f"{place}: resps has to hold the generated text.")
    return text


def _mark(line: Mapping[str, Any], place: str) -> bool | None:
    said = next((line[name] for name in _MARKS if name in line), None)
    if said is None:
        return None
    value = number_of(str(said), place, "mark")
    if value not in (0, 1):
        raise UserError(f"{place} has a mark of {value:g}; letters are marked 0 or 1.")
    return value == 1
