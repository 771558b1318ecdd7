"""Answer letters from generated text: the paper's lenient reading and a strict one.

Guarantees that `paper` returns, letter for letter, what the evaluator released with Cache-to-Cache
(v2, March 2026) returns, oddities included ("The correct answer is Carbon dioxide." is C, the
article "a" is A): published scores stay comparable. `strict` accepts an unambiguous answer only.
Neither is better; both are reported, with how often they disagree.
"""

from __future__ import annotations

import re

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

_REST_OF_LINE = tuple(re.compile(re.escape(lead_in) + r"\s*(.*)", re.IGNORECASE) for lead_in in LEAD_INS)
_STANDALONE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b([A-D])\s*(?:[.,!?:)]\s*)?$",
        r"\b([A-D])\s*[.,!?:)]\s",
        r"(?:^|\s)([A-D])\s*$",
    )
)
_WORD_LETTER = re.compile(r"\b([A-D])\b", re.IGNORECASE)
_CAPITAL = re.compile(r"[A-D]")

_WRAP = r"[\s:*_\"'“”‘’(\[{]*"
_END = r"(?=[\s*_\"'“”‘’)\]}]*(?:$|[.,:;!)\]}\n]))"
_BARE = re.compile(rf"{_WRAP}(?:(?i:option|choice)\s+)?([A-D])[\s*_\"'“”‘’)\]}}.,:;!]*")
_LEAD_IN = r"(?i:\b(?:answer|choice|option|response)\s*(?:\bis\b|:))"
_DECLARED = re.compile(rf"{_LEAD_IN}{_WRAP}(?:(?i:option)\s{_WRAP})?([A-D]){_END}")
_STANDALONE_CAPITAL = re.compile(r"(?<![\w'’-])([A-D])(?![\w'’-])")


def paper(text: str) -> str | None:
    """Reads an answer letter as the paper's released evaluator does.

    Args:
        text: what the model wrote, without special tokens.

    Returns:
        "A" to "D", or None where the evaluator finds no answer.
    """
    text = text.strip()
    if not text:
        return None
    letter = _after_lead_in(text)
    if letter:
        return letter
    formula = _looks_like_mathematics(text)
    if not formula and (letter := _standalone(text)):
        return letter
    words = _WORD_LETTER.findall(text)
    if words:
        return None if formula else words[-1].upper()
    capitals = _CAPITAL.findall(text)
    return capitals[-1] if capitals else None


def strict(text: str) -> str | None:
    """Reads an answer letter only where nothing else could be meant.

    Accepted are the bare capital ("B", "(B).", "option B") and a declaration ("The correct answer
    is B", "Answer: **B**", "the answer is B) Berlin") whose capital stands alone and ends its clause.

    Returns:
        "A" to "D"; None for any other text and for one that names two different letters.
    """
    if len(set(_STANDALONE_CAPITAL.findall(text))) != 1:
        return None
    found = _BARE.fullmatch(text) or _DECLARED.search(text)
    return found.group(1) if found else None


def _after_lead_in(text: str) -> str | None:
    # Every lead-in is tried, not only the leftmost: the order of the table decides.
    for pattern in _REST_OF_LINE:
        found = pattern.search(text)
        letter = _CAPITAL.search(found.group(1)) if found else None
        if letter:
            return letter.group()
    return None


def _standalone(text: str) -> str | None:
    for pattern in _STANDALONE:
        letters = pattern.findall(text)
        if letters:
            return str(letters[-1]).upper()
    return None


def _looks_like_mathematics(text: str) -> bool:
    lowered = text.lower()
    # Signs are matched as written, words in any case: "SIN" is no sign, "Answer" is a word.
    return any(sign in text for sign in MATH_SIGNS) and not any(word in lowered for word in ANSWER_WORDS)
