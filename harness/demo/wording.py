"""The world's few sentences and the chat around them, as both models read and write them.

Guarantees that training and evaluation see the same text: both render conversations through the same
chat template, which carries nothing that an ordinary model's template does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.demo.world import ATTRIBUTES, COLORS, LABELS, Fact, Question

PAD, UNK, END = "<|pad|>", "<|unk|>", "<|end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (PAD, UNK, END, USER, ASSISTANT)
T2T_PROMPT = "{question} tell me ."
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ ('" + USER + " ' if m['role'] == 'user' else '" + ASSISTANT + " ') + m['content'] + ' " + END + " ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + " ' }}{% endif %}"
)
Message = dict[str, str]


def prompt_text(question: str, choices: Sequence[str], labels: Sequence[str] = LABELS) -> str:
    """The user turn that asks one question with its options."""
    options = " ".join(f"{label} {choice}" for label, choice in zip(labels, choices, strict=True))
    return f"{question} {options} pick one letter ."


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The user turn of a canonical question document."""
    return prompt_text(doc["question"], doc["choices"], doc["labels"])


def note(fact: Fact, color: str | None = None) -> str:
    """The sentence a model writes about a fact, with its own colour or a given one."""
    return f"the {fact.attribute} of {fact.name} is {color or fact.color} ."


def question_chat(question: Question, hint_color: str | None = None) -> list[Message]:
    """The conversation that asks ``question``, after an exchange that brought a note where there is a hint."""
    asked = {"role": "user", "content": prompt_text(question.fact.question, question.choices)}
    if hint_color is None:
        return [asked]
    return [*note_chat(question.fact), {"role": "assistant", "content": note(question.fact, hint_color)}, asked]


def note_chat(fact: Fact) -> list[Message]:
    """The conversation that asks the sharer to write about ``fact``, the options unseen."""
    return [{"role": "user", "content": T2T_PROMPT.format(question=fact.question)}]


def vocabulary(names: Sequence[str]) -> list[str]:
    """Every token of the world in a fixed order, the special ones first."""
    fixed = ["color", "of", "the", "?", "pick", "one", "letter", ".", "tell", "me", "is"]
    return [*SPECIAL, *dict.fromkeys([*fixed, *LABELS, *ATTRIBUTES, *COLORS, *names])]
