"""An invented world of colour facts, its sentences, and a word-level tokenizer for them.

Half of the facts are known to the receiver, half to the sharer. A seed gives the same world on every platform, each
fact belongs to exactly one model, and no held-out fact (which the test asks about) is among those a fuser trains on.
Training and evaluation see the same text, since both render conversations through the same chat template, which carries
nothing that an ordinary model's template does not. Any transformers loader reads the tokenizer.

The trade-off: every question has the same shape, so a model of a few thousand weights can learn it. The world shows
whether knowledge crosses a channel, not how well a real model reads.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

ATTRIBUTES = ("boat", "coat", "door", "flag", "lamp", "roof")

COLORS = (
    *("amber", "black", "blue", "brown", "coral", "cyan", "gold", "green"),
    *("gray", "ivory", "lilac", "olive", "pink", "red", "violet", "white"),
)

LABELS = ("A", "B", "C", "D")

RECEIVER, SHARER = "receiver", "sharer"

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")

_VOWELS = ("a", "e", "i", "o", "u")

_ENDINGS = ("k", "l", "m", "n", "r", "s", "t", "x")


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of a world; the defaults are those of the committed one.

    Attributes:
        names: invented names; a fact is a name, an attribute and its colour.
        attributes: how many of ``ATTRIBUTES`` each name has.
        held_out: share of each model's facts that only the test asks about.
    """

    names: int = 80
    attributes: int = 6
    held_out: float = 0.4


@dataclass(frozen=True)
class Fact:
    """One colour fact: who knows it, and whether a fuser may see it in training."""

    id: str
    name: str
    attribute: str
    color: str
    known_by: str
    held_out: bool = False

    @property
    def question(self) -> str:
        """The question without options."""
        return f"color of the {self.attribute} of {self.name} ?"


@dataclass(frozen=True)
class Question:
    """A fact with four options in a fixed order, one of them right."""

    fact: Fact
    choices: tuple[str, ...]
    key: str

    def row(self, row_id: str) -> dict[str, Any]:
        """The canonical question document, the fact as its cluster."""
        return {
            "id": row_id,
            "question": self.fact.question,
            "choices": list(self.choices),
            "labels": list(LABELS),
            "key": self.key,
            "subject": self.fact.id,
            "category": self.fact.attribute,
            "known_by": self.fact.known_by,
            "held_out": self.fact.held_out,
        }


def random_stream(purpose: str, seed: int) -> random.Random:
    """A stream of random numbers of its own for each purpose, so that no draw shifts another's."""
    return random.Random(f"{purpose}-{seed}")  # noqa: S311 - nothing here is secret


def build_facts(seed: int, config: WorldConfig | None = None) -> tuple[Fact, ...]:
    """Draws the world's facts and deals them out between the two models.

    Args:
        seed: of the world; the committed pair uses 0.
        config: the sizes; the committed world's by default.

    Returns:
        All facts in a fixed order, half known by the receiver and half by the sharer.
    """
    config = config or WorldConfig()
    rng = random_stream("factworld", seed)
    names = _names(rng, config.names)
    pairs = [(name, attribute) for name in names for attribute in ATTRIBUTES[: config.attributes]]
    facts = [Fact(f"{name}-{attribute}", name, attribute, rng.choice(COLORS), "") for name, attribute in pairs]
    rng.shuffle(facts)
    half = len(facts) // 2
    dealt = (*_deal(facts[:half], RECEIVER, config), *_deal(facts[half:], SHARER, config))
    return tuple(sorted(dealt, key=lambda fact: fact.id))


def _deal(facts: list[Fact], known_by: str, config: WorldConfig) -> list[Fact]:
    kept = round(len(facts) * config.held_out)
    return [replace(fact, known_by=known_by, held_out=index < kept) for index, fact in enumerate(facts)]


def _names(rng: random.Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ONSETS) + rng.choice(_VOWELS)
        names[(syllables + rng.choice(_ENDINGS)).capitalize()] = None
    return list(names)


def names_of(facts: tuple[Fact, ...]) -> tuple[str, ...]:
    """The distinct names that occur in ``facts``, sorted."""
    return tuple(sorted({fact.name for fact in facts}))


def select_facts(facts: tuple[Fact, ...], known_by: str, held_out: bool | None = None) -> tuple[Fact, ...]:
    """The facts known by one model, all of them or those with the given ``held_out``."""
    return tuple(f for f in facts if f.known_by == known_by and held_out in {None, f.held_out})


def draw_question(fact: Fact, rng: random.Random) -> Question:
    """Draws three wrong colours and an order for one question about ``fact``."""
    wrong = rng.sample([color for color in COLORS if color != fact.color], len(LABELS) - 1)
    choices = [fact.color, *wrong]
    rng.shuffle(choices)
    return Question(fact, tuple(choices), LABELS[choices.index(fact.color)])


def ask_many(facts: tuple[Fact, ...], count: int, rng: random.Random) -> list[Question]:
    """Draws ``count`` questions that go round all ``facts`` in turn, so that each is asked about as often."""
    return [draw_question(facts[index % len(facts)], rng) for index in range(count)]


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


def note_sentence(fact: Fact, color: str | None = None) -> str:
    """The sentence a model writes about a fact, with its own colour or a given one."""
    return f"the {fact.attribute} of {fact.name} is {color or fact.color} ."


def question_chat(question: Question, hint_color: str | None = None) -> list[Message]:
    """The conversation that asks ``question``, after an exchange that brought a note where there is a hint."""
    asked = {"role": "user", "content": prompt_text(question.fact.question, question.choices)}
    if hint_color is None:
        return [asked]
    return [
        *note_chat(question.fact),
        {"role": "assistant", "content": note_sentence(question.fact, hint_color)},
        asked,
    ]


def note_chat(fact: Fact) -> list[Message]:
    """The conversation that asks the sharer to write about ``fact``, the options unseen."""
    return [{"role": "user", "content": T2T_PROMPT.format(question=fact.question)}]


def vocabulary(names: Sequence[str]) -> list[str]:
    """Every token of the world in a fixed order, the special ones first."""
    fixed = ["color", "of", "the", "?", "pick", "one", "letter", ".", "tell", "me", "is"]
    return [*SPECIAL, *dict.fromkeys([*fixed, *LABELS, *ATTRIBUTES, *COLORS, *names])]


def build_tokenizer(names: Sequence[str]) -> Any:
    """Builds the tokenizer of the world with these invented names."""
    return word_tokenizer(vocabulary(names))


def word_tokenizer(words: Sequence[str]) -> Any:
    """Builds a tokenizer with the chat template: one token a word, white space between words carries no meaning.

    Args:
        words: the vocabulary in order, the special tokens first.
    """
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[t for t in SPECIAL if t not in {PAD, UNK, END}],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Saves the tokenizer under the class name that every transformers version knows."""
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def render(tokenizer: Any, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Renders chats with the generation prompt and encodes them: one list of ids a chat."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids
