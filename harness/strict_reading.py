"""Answer letters from generated text where nothing else can be meant, and echoes of the instruction.

Guarantees that a text is read only if it is an answer and nothing but one: the letter alone, the letter with its
option's text, or a declaration. A denial ("I do not think the answer is B."), a question, and a text that names
another label are no answers. The price is that some answers which a person would understand are left out.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from string import ascii_uppercase

_LEAST_OPTIONS = 4  # an answer outside these letters is none; within them another label of fewer options is doubt
# Signs of full width are those of ASCII, as are the Chinese full stop and comma.
_PLAIN_SIGNS = {**{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}, ord("。"): ord("."), ord("、"): ord(",")}

_LETTER_OF_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # Chinese has no spaces around a label
_WRAP = r"(?:\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{|[\s:*_$\"'“”‘’(\[{])*"
_CLOSING = r"[\s*_$\"'“”‘’)\]}]*"
_END = rf"(?={_CLOSING}(?:$|[.,:;!)\]}}\n]|(?:because|since|as)\b))"
_LEAD_IN = (
    r"(?i:\b(?:answer|choice|option|response)\s*(?:\b(?:is|would\s+be|should\s+be|must\s+be)\b|:)"
    r"|\bI(?:\s+(?:would|will)|['’](?:d|ll))?\s+(?:choose|pick|select|go\s+with)\b"
    r"|答案\s*(?:应该|应当|应)?\s*(?:是|为|选|:)|(?<![不别])选(?:择|项)?)"
)
_SENTENCE_END = re.compile(r"[.!?\n]")
_DENIED = re.compile(
    r"(?i)\b(?:not|never|no|nor|neither|cannot|doubt\w*|unsure|unlikely|hardly|wrong|incorrect|false|if|whether)\b"
    r"|n['’]t\b|不|没|非|错|如果"
)
_SURE = re.compile(r"(?i)\b(?:no|without(?:\s+a)?|beyond)\s+doubt\b|毫无疑问")
_TAKEN_BACK = re.compile(
    r"(?i)\b(?:is|was|am|be|seems|looks)\b(?:\s+\w+){0,2}?\s+(?:wrong|incorrect|false|unsure)\b"
    r"|\b(?:not|n['’]t|never)\s+(?:the\s+|an?\s+|quite\s+)?(?:correct|right|true|answer|sure|certain)\b|不对|错误|不正确"
)
# What is a word and no label: an article, the pronoun, and the letter of a name such as "vitamin C".
_ARTICLE = r"A(?=\s+[a-z])(?!\s+(?:is|was|are|or|and|because|since|would|but|seems|can|nor)\b)"
_PRONOUN = r"I(?=\s+[a-z])(?!\s+(?:is|or|and)\b)"
_NAME = r"(?i:\b(?:vitamin|hepatitis|influenza|type|group|plan|class|grade|schedule)\s+)"


@dataclass(frozen=True)
class _Patterns:
    """The expressions that read one of the first few capital letters."""

    alone: re.Pattern[str]
    declared: re.Pattern[str]
    label: re.Pattern[str]
    echo: re.Pattern[str]


@functools.cache
def _patterns(options: int) -> _Patterns:
    if options > len(ascii_uppercase):
        raise ValueError(f"letters name up to {len(ascii_uppercase)} options, not {options}")
    letters = ascii_uppercase[:options]
    letter = f"[A-{letters[-1]}]"
    repeated = letters[:_LEAST_OPTIONS]
    between = r"\s*(?:,?\s*\bor\b|[/|,;])\s*"
    return _Patterns(
        alone=re.compile(
            rf"{_WRAP}(?:(?i:option|choice)\s+|选项\s*)?({letter})(?:[*_$\"'“”‘’)\]}}.,:;!\s]*$"
            rf"|{_CLOSING}[.,:;!]*[ \t]*\n|[*_\"'”’\]}}]*[.):,][*_\"'”’\]}})]*(?:\s+|(?=[\u3400-\u9fff]))\S)"
        ),
        declared=re.compile(rf"{_LEAD_IN}{_WRAP}(?:(?i:option)\s{_WRAP}|选项\s*)?({letter}){_END}"),
        label=re.compile(rf"(?<!{_LETTER_OF_WORD})(?<!['’-])({letter})(?!{_LETTER_OF_WORD}|['’-])"),
        echo=re.compile(between.join(rf"(?<!{_LETTER_OF_WORD}){one}(?!{_LETTER_OF_WORD})" for one in repeated)),
    )


def strict(text: str, options: int = _LEAST_OPTIONS) -> str | None:
    """Reads an answer letter only where nothing else could be meant.

    Accepted are the bare capital ("B", "(B).", "option B", a LaTeX box), the capital with its option's text
    ("D. slow") and a declaration ("The correct answer is B", "Answer: **B**", "the answer is B) Berlin", "答案是B")
    whose capital stands alone and ends its clause.

    Args:
        text: what the model wrote, without special tokens.
        options: how many options the question has; no other letter is an answer.

    Returns:
        A letter; None for any other text, for a denial, and for one that names two different labels.

    Raises:
        ValueError: if there are more options than letters.
    """
    plain = text.translate(_PLAIN_SIGNS).strip()
    patterns = _patterns(max(options, _LEAST_OPTIONS))
    answer = patterns.alone.match(plain) or patterns.declared.search(plain)
    if answer is None or answer.group(1) not in ascii_uppercase[:options]:
        return None
    doubt = _denied(plain, answer) or _other_labels(plain, answer, patterns.label)
    return None if doubt else answer.group(1)


def is_echo(text: str, options: int = _LEAST_OPTIONS) -> bool:
    """Whether a text repeats the labels of the instruction ("A/B/C/D", "A, B, C or D") in place of choosing one.

    Args:
        text: what the model wrote.
        options: how many options the question has.

    Raises:
        ValueError: if there are fewer than two options, or more than letters.
    """
    if options < 2:
        raise ValueError(f"{options} options are no choice")
    return _patterns(options).echo.search(text.translate(_PLAIN_SIGNS)) is not None


def _denied(text: str, answer: re.Match[str]) -> bool:
    """Whether the answer's own sentence says the contrary."""
    ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, answer.start())]
    before = text[ends[-1] if ends else 0 : answer.start(1)]
    # What follows the full stop of a bare label is still said of it ("B. is wrong").
    rest = text[answer.end(1) :].lstrip(")]}*_ ." if answer.start() == 0 else ")]}*_ ")
    asked, rest = rest.startswith("?"), _SENTENCE_END.split(rest, maxsplit=1)[0]
    return asked or _DENIED.search(_SURE.sub("", before)) is not None or _TAKEN_BACK.search(rest) is not None


def _other_labels(text: str, answer: re.Match[str], label: re.Pattern[str]) -> bool:
    """Whether a label other than the answer stands in the text; words of one letter behind the answer are none."""
    return any(
        one.group(1) != answer.group(1) and not _is_word(text, one.start(1), behind=one.start(1) > answer.start(1))
        for one in label.finditer(text)
    )


def _is_word(text: str, start: int, *, behind: bool) -> bool:
    if re.compile(_PRONOUN).match(text, start):
        return True
    return behind and (
        re.compile(_ARTICLE).match(text, start) is not None or re.search(rf"{_NAME}$", text[:start]) is not None
    )
