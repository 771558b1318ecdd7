"""From lm-eval's requests to ours: all options of a question become one request with one prefill.

Guarantees that the conversation behind a prompt is known wherever lm-eval applied our chat rendering, and that
sampling is refused: every number of this harness is greedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.channels.base import Query
from harness.config.rules import BUDGETS
from harness.engine import Request
from harness.errors import UserError
from harness.prompts import ChatText, Conversation, Turn, from_history
from harness.row_words import bare_question, option_texts

DEFAULT_MAX_NEW_TOKENS = 256
_GREEDY = {
    **{"do_sample": (False, None), "temperature": (0, 0.0, None), "repetition_penalty": (1, 1.0, None)},
    "num_beams": (1, None),
}
_IGNORED = {"top_p", "top_k"}


@dataclass(frozen=True)
class Settings:
    """How text is decoded."""

    max_new_tokens: int
    stops: tuple[str, ...]


def chat_text(history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, **_: Any) -> ChatText:
    """Renders a history for whoever hashes or logs it; the models read the conversation that it carries."""
    lines = [f"{turn['role']}: {turn['content']}" for turn in history]
    return ChatText("\n".join(lines), from_history(history, add_generation_prompt))


def conversation_of(context: str) -> Conversation:
    """The conversation behind an lm-eval context; a plain string is sent as it is."""
    if isinstance(context, ChatText):
        return context.conversation
    return Conversation((Turn("user", context),), chat=False)


def query_of(
    context: str,
    document: Mapping[str, Any],
    metadata: Mapping[str, Any],
    room: int = 0,
    continuations: Sequence[str] = (),
) -> Query:
    """What a channel sees of one question; `continuations` are what lm-eval compares, where it does."""
    choices = option_texts(document, continuations)
    return Query(
        conversation=conversation_of(context),
        question=bare_question(document, metadata.get("t2t_question"), context, choices),
        choices=choices,
        t2t_prompt=metadata.get("t2t_prompt"),
        room=room,
    )


def scoring_request(
    contexts: Sequence[tuple[str, str]], document: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Request:
    """One request for all continuations of one context; `contexts` are lm-eval's (context, continuation) pairs."""
    options = tuple(option for _, option in contexts)
    return Request(query_of(contexts[0][0], document, metadata, continuations=options), options=options)


def decoding_request(
    context: str, arguments: Mapping[str, Any], document: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Request:
    """A request for decoded text."""
    settings = decoding_settings(arguments)
    query = query_of(context, document, metadata, settings.max_new_tokens)
    return Request(query, max_new_tokens=settings.max_new_tokens, stops=settings.stops)


def decoding_settings(arguments: Mapping[str, Any]) -> Settings:
    """Reads lm-eval's generation arguments.

    Raises:
        UserError: they ask for sampling, or for something that we do not know.
    """
    left = dict(arguments)
    until = left.pop("until", None) or []
    budgets = [left.pop(n, None) for n in BUDGETS]
    for name, allowed in _GREEDY.items():
        if left.pop(name, None) not in allowed:
            raise UserError(f"Decoding is greedy here; generation setting {name!r} allows only {allowed[0]!r}.")
    unknown = sorted(set(left) - _IGNORED)
    if unknown:
        raise UserError(f"Unknown generation setting {unknown[0]!r}; allowed: until, max_gen_toks, do_sample=False.")
    budget = next((b for b in budgets if b is not None), DEFAULT_MAX_NEW_TOKENS)
    if type(budget) is not int or budget < 1:
        raise UserError(f"max_gen_toks is {str(budget)[:40]!r}; it has to be a whole number from 1.")
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(s, str) for s in stops):
        raise UserError(f"until is {str(until)[:40]!r}; it has to be a text or a list of texts.")
    return Settings(budget, tuple(s for s in stops if s))
