"""Answer letters from generated text as the paper reads them.

Guarantees that `paper` returns, letter for letter, what the evaluator released with Cache-to-Cache
(v2, March 2026) returns, oddities included ("The correct answer is Carbon dioxide." is C, the
article "a" is A): published scores stay comparable. The strict reading is in `harness.strict_reading`; both are
reported, with how often they disagree. Questions with more than four options extend the letters to those of the
options and change nothing else.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from string import ascii_uppercase

from harness.strict_reading import is_echo, strict

__all__ = ["MOST_OPTIONS", "PAPER_OPTIONS", "is_echo", "paper", "strict"]

LEAD_INS = (
    "answer:",
    "your answer:",
    "the answer is",
    "correct answer is",
    "correct answer is:",
    "correct answer:",
    "jibu lako:",
    "jibu:",
    "jibu sahihi:",
    "response:",
    "choice:",
    "option:",
)
MATH_SIGNS = ("+", "-", "*", "/", "=", "^", "mod", "sqrt", "sin", "cos", "tan")
ANSWER_WORDS = ("answer", "choice", "option", "response", "correct", "jibu", "sahihi")

PAPER_OPTIONS = 4
MOST_OPTIONS = len(ascii_uppercase)

_REST_OF_LINE = tuple(re.compile(re.escape(lead_in) + r"\s*(.*)", re.IGNORECASE) for lead_in in LEAD_INS)


@dataclass(frozen=True)
class _Patterns:
    """The expressions that read one of the first few capital letters."""

    standalone: tuple[re.Pattern[str], ...]
    word: re.Pattern[str]
    capital: re.Pattern[str]


@functools.cache
def _patterns(options: int) -> _Patterns:
    if options > MOST_OPTIONS:
        raise ValueError(f"letters name up to {MOST_OPTIONS} options, not {options}")
    letter = f"[A-{ascii_uppercase[options - 1]}]"
    standalone = (rf"\b({letter})\s*(?:[.,!?:)]\s*)?$", rf"\b({letter})\s*[.,!?:)]\s", rf"(?:^|\s)({letter})\s*$")
    return _Patterns(
        standalone=tuple(re.compile(pattern, re.IGNORECASE) for pattern in standalone),
        word=re.compile(rf"\b({letter})\b", re.IGNORECASE),
        capital=re.compile(letter),
    )


def paper(text: str, options: int = PAPER_OPTIONS) -> str | None:
    """Reads an answer letter as the paper's released evaluator does.

    Args:
        text: what the model wrote, without special tokens.
        options: how many options the question has; with fewer than four the evaluator still reads "A" to "D".

    Returns:
        A letter, or None where the evaluator finds no answer.

    Raises:
        ValueError: if there are more options than letters.
    """
    text = text.strip()
    if not text:
        return None
    patterns = _patterns(max(options, PAPER_OPTIONS))
    letter = _after_lead_in(text, patterns)
    if letter:
        return letter
    formula = _looks_like_mathematics(text)
    if not formula and (letter := _standalone(text, patterns)):
        return letter
    words = patterns.word.findall(text)
    if words:
        return None if formula else str(words[-1]).upper()
    capitals = patterns.capital.findall(text)
    return str(capitals[-1]) if capitals else None


def _after_lead_in(text: str, patterns: _Patterns) -> str | None:
    # Every lead-in is tried, not only the leftmost: the order of the table decides.
    for pattern in _REST_OF_LINE:
        found = pattern.search(text)
        letter = patterns.capital.search(found.group(1)) if found else None
        if letter:
            return letter.group()
    return None


def _standalone(text: str, patterns: _Patterns) -> str | None:
    for pattern in patterns.standalone:
        letters = pattern.findall(text)
        if letters:
            return str(letters[-1]).upper()
    return None


def _looks_like_mathematics(text: str) -> bool:
    lowered = text.lower()
    # Signs are matched as written, words in any case: "SIN" is no sign, "Answer" is a word.
    return any(sign in text for sign in MATH_SIGNS) and not any(word in lowered for word in ANSWER_WORDS)
