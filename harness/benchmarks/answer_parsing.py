"""Answer letters from generated text, as the paper reads them and strictly, and the scores of an answer.

`paper` returns, letter for letter, what the evaluator released with Cache-to-Cache (v2, March 2026) returns, oddities
included ("The correct answer is Carbon dioxide." is C, the article "a" is A), so published scores stay comparable. Its
only extension is to the letters of questions with more than four options. The strict reading accepts the letter alone,
the letter with its option's text, or a declaration; a denial, a question, and a text that names another label are no
answers, so some answers that a person would understand are lost. Both readings are reported, with how often they
disagree. Echoes of the instruction are recognised.

An answer is scored once, by the filters and `process_results` of its lm-eval task. A loglikelihood or a metric that is
NaN is an error for the caller to count, never a wrong answer.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from harness.errors import RunError, UserError
from harness.records.schema import Sample

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
class _StrictPatterns:
    """The expressions that read one of the first few capital letters."""

    alone: re.Pattern[str]
    declared: re.Pattern[str]
    label: re.Pattern[str]
    echo: re.Pattern[str]


@functools.cache
def _strict_patterns(options: int) -> _StrictPatterns:
    if options > len(ascii_uppercase):
        raise ValueError(f"letters name up to {len(ascii_uppercase)} options, not {options}")
    letters = ascii_uppercase[:options]
    letter = f"[A-{letters[-1]}]"
    repeated = letters[:_LEAST_OPTIONS]
    between = r"\s*(?:,?\s*\bor\b|[/|,;])\s*"
    return _StrictPatterns(
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
    patterns = _strict_patterns(max(options, _LEAST_OPTIONS))
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
    return _strict_patterns(options).echo.search(text.translate(_PLAIN_SIGNS)) is not None


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


Pair = tuple[str, str]

PARSERS: Mapping[str, Callable[[str, int], str | None]] = {"paper": paper, "strict": strict}

# Scores that the fields of a sample hold already: (metric, filter) -> what the fields say.
_IN_FIELDS: Mapping[Pair, Callable[[Sample], float]] = {
    ("acc", "strict"): lambda s: float(bool(s.correct_strict)),
    ("invalid", "paper"): lambda s: float(s.predicted is None),
    ("invalid", "strict"): lambda s: float(s.predicted_strict is None),
    ("parsers_disagree", "both"): lambda s: float(s.predicted != s.predicted_strict),
}


class ScoreError(RunError):
    """The model's output for one question cannot be scored."""


@dataclass(frozen=True)
class Scores:
    """Scores of one answer by its own task.

    Attributes:
        values: (metric, filter) -> value, in the order of the task's filters and metrics.
        readings: filter -> what it made of a generated text; for options the label of the most likely one.
    """

    values: Mapping[Pair, float]
    readings: Mapping[str, str | None]

    @property
    def first_filter(self) -> str:
        """Name of the filter whose first metric says whether an answer is right."""
        return next(iter(self.values))[1]


def score(task: Any, instances: Sequence[Any], responses: Sequence[Any], labels: Sequence[str] = ()) -> Scores:
    """Scores one answer with the filters and `process_results` of its lm-eval task.

    Args:
        task: the lm-eval task.
        instances: its requests for one document, in order; they are left as they are.
        responses: one a request: a text, or (loglikelihood in nats, is greedy).
        labels: of the options, where these are compared by loglikelihood.

    Raises:
        ScoreError: a response or a metric is not a number, or the filters cannot read this document's answers.
        UserError: a filter leaves several texts.
    """
    asked = [
        replace(instance, resps=[response], filtered_resps={})
        for instance, response in zip(instances, responses, strict=True)
    ]
    asker = copy.copy(task)  # filters write into the requests that a task holds; other threads score with it too
    asker._instances = asked
    asker.apply_filters()
    values: dict[Pair, float] = {}
    for name in asked[0].filtered_resps:
        filtered = [instance.filtered_resps[name] for instance in asked]
        if isinstance(filtered[0], list):
            raise UserError(
                f"Filter {name!r} of task {asked[0].task_name!r} makes a list of a reply; end it with take_first."
            )
        for metric, value in task.process_results(asked[0].doc, filtered).items():
            values[metric, name] = _number(metric, value)
    if not values:
        raise ScoreError(f"Task {asked[0].task_name!r} gives no metric for an answer.")
    return Scores(values, _readings(asked, labels))


def fields_of(scores: Scores) -> dict[str, Any]:
    """Returns what a sample records of its scores; `correct` is full marks in the first metric."""
    first, readings = scores.first_filter, scores.readings
    right = next(iter(scores.values.values())) == 1.0
    fields: dict[str, Any] = {
        "predicted": readings[first],
        "predicted_strict": readings.get("strict", readings[first]),
        "correct": right,
        "correct_strict": scores.values.get(("acc", "strict"), float(right)) == 1.0,
    }
    known = Sample.model_construct(**fields)
    kept = {p: v for p, v in scores.values.items() if p not in _IN_FIELDS or _IN_FIELDS[p](known) != v}
    metrics = {metric if name == first else f"{metric},{name}": value for (metric, name), value in kept.items()}
    return {**fields, "metrics": metrics}


def scores_of(sample: Sample, filters: Sequence[str], metrics: Sequence[str]) -> dict[Pair, float]:
    """Returns the recorded scores of an answered sample by (metric, filter), in the order of its task.

    Args:
        sample: with scores.
        filters: of its task, the one that decides first.
        metrics: of its task.
    """
    recorded = {pair: told(sample) for pair, told in _IN_FIELDS.items() if pair[1] in filters and pair[0] in metrics}
    for name, value in sample.metrics.items():
        metric, _, told = name.partition(",")
        recorded[metric, told or filters[0]] = value
    return dict(sorted(recorded.items(), key=lambda entry: filters.index(entry[0][1])))


def read_letter(text: str, parser: str, key: str, labels: Sequence[str]) -> str | None:
    """Reads an answer letter from a generated text; None where the parser finds none.

    Args:
        text: what the model wrote.
        parser: name in `PARSERS`.
        key: the right label.
        labels: of all options of the question: the first letters of the alphabet, in order.

    Raises:
        ScoreError: if the labels are others, which no parser can read, or the key is not among them.
    """
    if list(labels) != list(ascii_uppercase[: len(labels)]) or len(labels) < 2:
        raise ScoreError(f"Answers are read as letters from A on; the labels are {', '.join(labels)}.")
    if key not in list(labels):
        raise ScoreError(f"The key is {key!r}, which is not one of the labels {', '.join(labels)}.")
    return PARSERS[parser](text, len(labels))


def most_likely(loglikelihoods: Sequence[float], labels: Sequence[str]) -> str:
    """Returns the label of the greatest loglikelihood (nats, one a label), the first of equals.

    Raises:
        ScoreError: if the numbers do not match the labels, one is NaN or +inf, or all are -inf.
    """
    if len(loglikelihoods) != len(labels):
        raise ScoreError(f"{len(loglikelihoods)} loglikelihoods were given for {len(labels)} labels.")
    seen = ", ".join(f"{label}={value}" for label, value in zip(labels, loglikelihoods, strict=True))
    if any(math.isnan(value) or value == math.inf for value in loglikelihoods):
        raise ScoreError(f"A loglikelihood is not a finite number ({seen}); the question cannot be scored.")
    best = max(loglikelihoods, default=-math.inf)
    if best == -math.inf:
        raise ScoreError(f"No label has a finite loglikelihood ({seen}); the question cannot be scored.")
    return labels[list(loglikelihoods).index(best)]


def _readings(asked: Sequence[Any], labels: Sequence[str]) -> dict[str, str | None]:
    if asked[0].request_type == "generate_until":
        return {name: read if isinstance(read, str) else None for name, read in asked[0].filtered_resps.items()}
    label = most_likely([instance.resps[0][0] for instance in asked], labels)
    return dict.fromkeys(asked[0].filtered_resps, label)


def _number(metric: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ScoreError(
            f"Metric {metric!r} of one answer is {str(value)[:40]!r}, which is no number; tasks with such metrics run "
            "through python -m harness.lm_eval_bridge.__main__."
        ) from None
    if not math.isfinite(number):
        raise ScoreError(f"Metric {metric!r} of one answer is {number}; the question cannot be scored.")
    return number
