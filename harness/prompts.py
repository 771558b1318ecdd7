"""From a conversation to the token ids of one model.

Guarantees that every model reads the conversation through its own chat template and that what is appended after
the generation prompt (the answer's opening words) stays apart, since a message never covers it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import UserError
from harness.models import Reference

# The paper runs every model with thinking off; templates that know no such switch ignore it.
TEMPLATE_ARGUMENTS: Mapping[str, Any] = {"enable_thinking": False}


class Speaker(Protocol):
    """Whoever reads prompts: a loaded model, or one behind a serving engine."""

    @property
    def reference(self) -> Reference:
        """Its name."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, with its chat template."""

    @property
    def max_length(self) -> int:
        """Tokens that its context holds."""


@dataclass(frozen=True)
class Turn:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """What is asked.

    Attributes:
        turns: the chat so far, oldest first.
        prefix: opening words of the answer, appended after the generation prompt.
        chat: False sends the turns' text as it is, without any template.
    """

    turns: tuple[Turn, ...]
    prefix: str = ""
    chat: bool = True

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns in the form that chat templates take."""
        return [{"role": t.role, "content": t.content} for t in self.turns]

    @property
    def plain(self) -> str:
        """The turns' text without a template."""
        return "\n\n".join(t.content for t in self.turns)


def ask(text: str, *, prefix: str = "", chat: bool = True) -> Conversation:
    """A conversation of one user turn."""
    return Conversation((Turn("user", text),), prefix, chat)


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation.

    Attributes:
        ids: the whole prompt with its prefix.
        n_prompt: how many of them stand before the prefix.
    """

    ids: tuple[int, ...]
    n_prompt: int


class ChatText(str):
    """A rendered conversation that remembers what it was rendered from.

    lm-eval hands a model's own chat rendering back to it untouched, so each model of a pair can apply its own
    template to `conversation`; everybody else sees a plain string.
    """

    conversation: Conversation

    def __new__(cls, text: str, conversation: Conversation) -> ChatText:
        """Attaches a conversation to its rendering."""
        made = super().__new__(cls, text)
        made.conversation = conversation
        return made


def from_history(history: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> Conversation:
    """Reads lm-eval's chat history; without a generation prompt its last turn is the answer's opening words."""
    turns = [Turn(t["role"], t["content"]) for t in history]
    if add_generation_prompt:
        return Conversation(tuple(turns))
    return Conversation(tuple(turns[:-1]), turns[-1].content)


def render(lm: Speaker, conversation: Conversation) -> str:
    """Returns the prompt's text without the prefix.

    Raises:
        UserError: the model has no chat template, or the template refuses the conversation.
    """
    if not conversation.chat:
        return conversation.plain
    if lm.tokenizer.chat_template is None:
        raise UserError(
            f"Model {lm.reference.text!r} has no chat template; give one (for instance the built-in 'simple'), "
            "or send plain text with --no-chat-template."
        )
    try:
        return str(
            lm.tokenizer.apply_chat_template(
                conversation.messages,
                tokenize=False,
                add_generation_prompt=True,
                **TEMPLATE_ARGUMENTS,
            )
        )
    except Exception as error:  # a template is a program of somebody else's and may raise anything
        raise UserError(f"The chat template of {lm.reference.text!r} refuses the conversation: {error}") from error


def tokenize(lm: Speaker, text: str, chat: bool) -> tuple[int, ...]:
    """Token ids of rendered text; a chat template has already written the special tokens it wants."""
    return tuple(lm.tokenizer(text, add_special_tokens=not chat)["input_ids"])


def encode(lm: Speaker, conversation: Conversation) -> Encoded:
    """Token ids of a conversation for one model."""
    text = render(lm, conversation)
    ids = tokenize(lm, text, conversation.chat)
    if not conversation.prefix:
        return Encoded(ids, len(ids))
    whole = tokenize(lm, text + conversation.prefix, conversation.chat)
    shared = next((i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), min(len(ids), len(whole)))
    return Encoded(whole, shared)


def continuation(lm: Speaker, conversation: Conversation, option: str) -> tuple[int, ...]:
    """Token ids that `option` adds behind the conversation.

    The option is tokenised together with what stands before it, as lm-eval does, because a tokenizer may merge
    across the seam.

    Raises:
        ValueError: the option adds no token, so it has no loglikelihood.
    """
    text = render(lm, conversation) + conversation.prefix
    before = tokenize(lm, text, conversation.chat)
    added = tokenize(lm, text + option, conversation.chat)[len(before) :]
    if not added:
        raise ValueError(f"The option {option!r} adds no token to the prompt.")
    return added


def fingerprint_text(conversation: Conversation, extra: Any) -> str:
    """The text whose hash says whether two samples asked the same."""
    asked = [conversation.messages, conversation.prefix, conversation.chat, extra]
    return json.dumps(asked, ensure_ascii=False, sort_keys=True)
