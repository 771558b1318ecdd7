"""JSON lines with the letters of several arms: `{"truth": "D", "predicted": {"baseline": "D", "fused": "A"}}`.

Further fields are `id`, `question`, `subject`, `correct` (arm -> mark) and `logits_ABCD` (arm -> logits of the letters,
whose largest has to be the letter). `index` numbers the rows of the file and `tokens_in` is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from harness.errors import UserError
from harness.imported.rows import Row, letter_of, number_of
from harness.imported.tables import json_rows, refuse_unknown

NEEDED = ("truth", "predicted")
_FIELDS = (*NEEDED, "id", "question", "subject", "correct", "logits_ABCD", "index", "tokens_in")


def read(path: Path) -> Iterator[Row]:
    """Yields the rows of a file, those of one line next to each other.

    Raises:
        UserError: if a field is not known or cannot be read, or a letter is not that of the largest logit.
    """
    for place, line in json_rows(path):
        refuse_unknown(line, _FIELDS, place)
        predicted = line.get("predicted")
        if not isinstance(predicted, Mapping) or not predicted:
            raise UserError(f"{place}: predicted has to be an object, arm -> letter.")
        yield from (_row(place, line, str(arm), letter_of(str(said), place)) for arm, said in predicted.items())


def _row(place: str, line: Mapping[str, Any], arm: str, letter: str) -> Row:
    logits = _part(line, "logits_ABCD", arm)
    where = f"{place}, arm {arm}"
    if logits is not None and (largest := _largest(logits, where)) != letter:
        raise UserError(f"{where}: the letter is {letter or 'missing'}, but the largest logit is that of {largest}.")
    mark = _part(line, "correct", arm)
    if mark is not None and not isinstance(mark, bool):
        raise UserError(f"{where} has {str(mark)[:40]!r} for correct; allowed: true, false.")
    return Row(
        place=where,
        arm=arm,
        id=_text(line, "id"),
        subject=str(line.get("subject", "")),
        question=_text(line, "question"),
        key=letter_of(str(line["truth"]), place) or None,
        letter=letter,
        correct=mark,
    )


def _part(line: Mapping[str, Any], name: str, arm: str) -> Any:
    values = line.get(name)
    return values.get(arm) if isinstance(values, Mapping) else None


def _largest(logits: Any, where: str) -> str:
    if not isinstance(logits, list) or not 2 <= len(logits) <= len(ascii_uppercase):
        raise UserError(f"{where}: logits_ABCD has to be a list of numbers, one a letter.")
    values = [number_of(str(value), where, "logit") for value in logits]
    return ascii_uppercase[values.index(max(values))]


def _text(line: Mapping[str, Any], name: str) -> str | None:
    return None if line.get(name) is None else str(line[name])
