"""A row of an imported result file in any format, and what was answered in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from string import ascii_uppercase

from harness.benchmarks import answer_parsing
from harness.errors import UserError


@dataclass(frozen=True)
class Row:
    """One question through one arm, as a file says it; None where the file does not say.

    Attributes:
        place: file and row, for sentences.
        arm: the file's own name of the arm; empty where a file holds one.
        id: of the question.
        index: of the question within the rows of its subject, from 0, in a file that counts instead of naming.
        key: the right letter.
        letter: that was recorded; empty where it says that there is none.
        text: that was generated.
        correct: whether the answer was recorded as right.
    """

    place: str
    arm: str = ""
    id: str | None = None
    index: int | None = None
    subject: str = ""
    question: str | None = None
    choices: tuple[str, ...] | None = None
    key: str | None = None
    letter: str | None = None
    text: str | None = None
    correct: bool | None = None
    latency_s: float | None = None
    tokens_out: int | None = None

    @property
    def named(self) -> bool:
        """Whether it says which question it is, by id, place or text."""
        return self.id is not None or self.index is not None or self.question is not None


@dataclass(frozen=True)
class Answer:
    """What a row answered.

    Attributes:
        letter: None where there is none.
        strict: by the strict parser; None where there is none, or no text.
        echo: whether the text repeats the labels; None without a text.
    """

    letter: str | None
    strict: str | None
    echo: bool | None


def answer_of(row: Row, options: int) -> Answer:
    """Reads a row's answer again.

    Args:
        row: of a file.
        options: number of options of its question.

    Raises:
        UserError: if the recorded letter is not what its text says, is no letter, or nothing is recorded.
    """
    if row.text is None:
        if row.letter is None:
            raise UserError(f"{row.place} has neither a letter nor a text; one of them is needed.")
        return Answer(letter_of(row.letter, row.place) or None, None, None)
    read = answer_parsing.paper(row.text, options)
    if row.letter is not None and letter_of(row.letter, row.place) != (read or ""):
        raise UserError(
            f"{row.place} records {_said(row.letter)}, but its text {_short(row.text)} reads as {_said(read or '')} "
            "by the paper's parser; one of them was changed, or another parser was used: leave the letters out, or the "
            "texts, and name that parser as the evaluator."
        )
    return Answer(read, answer_parsing.strict(row.text, options), answer_parsing.is_echo(row.text, options))


def check_mark(row: Row, answer: Answer, key: str) -> None:
    """Compares the recorded mark with the letters.

    Raises:
        UserError: if it is another.
    """
    right = answer.letter == key
    if row.correct is not None and row.correct != right:
        raise UserError(
            f"{row.place} is marked {_mark(row.correct)}, but it answers {_said(answer.letter or '')} where {key} is "
            f"right; one of the three was changed."
        )


def letter_of(text: str, place: str) -> str:
    """Returns a letter, which may be written small, or an empty string for none.

    Raises:
        UserError: if it is anything else.
    """
    letter = text.strip()
    if letter in ("", "-", "None", "nan"):
        return ""
    if len(letter) != 1 or letter.upper() not in ascii_uppercase:
        raise UserError(f"{place} has {text[:40]!r} for a letter; allowed are A to Z, and nothing for no answer.")
    return letter.upper()


def seconds_of(text: str, place: str, unit: str) -> float | None:
    """Reads a latency in seconds or milliseconds; None where the cell is empty.

    Raises:
        UserError: if it is no finite number from 0.
    """
    if not text.strip():
        return None
    value = number_of(text, place, f"latency in {unit}")
    if value < 0:
        raise UserError(f"{place} has a latency of {text.strip()} {unit}; it has to be 0 or more.")
    return value / 1e3 if unit == "ms" else value


def number_of(text: str, place: str, what: str) -> float:
    """Reads a finite number.

    Raises:
        UserError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{place} has {text[:40]!r} for its {what}; a finite number is needed.")
    return value


def count_of(text: str, place: str, what: str) -> int:
    """Reads a whole number from 0.

    Raises:
        UserError: if it is none.
    """
    if not text.strip().isdecimal():
        raise UserError(f"{place} has {text[:40]!r} for its {what}; a whole number from 0 is needed.")
    return int(text)


def flag_of(text: str, place: str, what: str) -> bool | None:
    """Reads true or false; None where the cell is empty.

    Raises:
        UserError: if it is neither.
    """
    known = {"": None, "true": True, "false": False, "1": True, "0": False}
    if text.strip().lower() not in known:
        raise UserError(f"{place} has {text[:40]!r} for {what}; allowed: true, false.")
    return known[text.strip().lower()]


def _said(letter: str) -> str:
    return letter or "no letter"


def _mark(correct: bool) -> str:
    return "right" if correct else "wrong"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
