"""The prompt of the paper, as its released evaluator builds it, byte for byte where a question has four options.

The released evaluator asks for "A/B/C/D" however many options there are, and so do benchmarks that keep its sentence
(ARC-Challenge, where six rows have three or five options); elsewhere the sentence names the labels of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROMPT = """Accurately answer the following question:

{question}

Choices:
{options}

Instructions:
- Carefully read the question and all options.
- Select the single most correct answer.
- Respond ONLY in the following format: "The correct answer is {labels}".
- Do not include any explanations, additional text, or punctuation besides the answer.

The correct answer is"""


def paper_prompt(document: Mapping[str, Any], released_sentence: bool = False) -> str:
    """Renders the user turn of a canonical document.

    Each option ends in a newline, so two empty lines follow the last; there is none after the prompt.

    Args:
        document: the question.
        released_sentence: ask for "A/B/C/D" whatever the labels are.
    """
    labels = "/".join("ABCD" if released_sentence else document["labels"])
    return _PROMPT.format(question=document["question"], options=options(document), labels=labels)


def options(document: Mapping[str, Any]) -> str:
    """Renders the options, one a line, as `A. text` with a newline after each."""
    pairs = zip(document["labels"], document["choices"], strict=True)
    return "".join(f"{label}. {choice}\n" for label, choice in pairs)
