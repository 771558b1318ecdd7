"""From lm-eval's requests to ours: all options of a question become one request with one prefill.

Guarantees that the conversation behind a prompt is known wherever lm-eval applied our chat rendering, and that
sampling is refused: every number of this harness is greedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.benchmarks.views import Views, bare_question, option_texts
from harness.config.validation import BUDGETS, NEW_TOKENS
from harness.errors import UserError
from harness.inference.types import Query, Request
from harness.models import token_seam
from harness.models.chat import ChatText, Conversation, Encoded, Reading, Speaker, Turn, encode, from_history, rendered

DEFAULT_MAX_NEW_TOKENS = 256

# Settings that leave decoding greedy at this value only.
_NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1.0}

_IGNORED = {"top_p", "top_k"}

_OWN = Reading()

# Tokens that a tokenizer may put around a text by itself; more than any does.
_OPENING_TOKENS = 16


@dataclass(frozen=True)
class Settings:
    """How text is decoded.

    Attributes:
        max_new_tokens: budget.
        stops: stop strings, none empty.
        max_length: budget of prompt and answer together, in place of `max_new_tokens`.
        one_token: an empty stop string is asked for, which ends every text behind its first token.
        room: tokens of the context that are kept free for the answer.
    """

    max_new_tokens: int
    stops: tuple[str, ...]
    max_length: int | None = None
    one_token: bool = False
    room: int = 0


def chat_text(history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, **_: Any) -> ChatText:
    """Renders a history for whoever hashes or logs it; the models read the conversation that it carries."""
    lines = [f"{turn['role']}: {turn['content']}" for turn in history]
    return ChatText("\n".join(lines), from_history(history, add_generation_prompt))


def conversation_of(context: str, reading: Reading = _OWN) -> Conversation:
    """The conversation behind an lm-eval context; a plain string is sent as it is."""
    if isinstance(context, ChatText):
        return replace(context.conversation, reading=reading)
    return Conversation((Turn("user", context),), chat=False, reading=reading)


def query_of(
    context: str,
    document: Mapping[str, Any],
    metadata: Mapping[str, Any],
    room: int = 0,
    reading: Reading = _OWN,
    continuations: Sequence[str] = (),
    views: Views | None = None,
) -> Query:
    """What a channel sees of one question; `continuations` are what lm-eval compares, where it does."""
    choices = option_texts(document, continuations)
    query = Query(
        receiver=conversation_of(context, reading),
        question=bare_question(document, metadata.get("t2t_question"), context, choices),
        choices=choices,
        t2t_prompt=metadata.get("t2t_prompt"),
        room=room,
    )
    return query if views is None or not context else views.of(query, document)


def scoring_request(
    contexts: Sequence[tuple[str, str]],
    document: Mapping[str, Any],
    metadata: Mapping[str, Any],
    reading: Reading = _OWN,
    views: Views | None = None,
) -> Request:
    """One request for all continuations of one context; `contexts` are lm-eval's (context, continuation) pairs."""
    options = tuple(option for _, option in contexts)
    return Request(query_of(contexts[0][0], document, metadata, 0, reading, options, views), options=options)


def decoding_request(
    context: str,
    arguments: Mapping[str, Any],
    document: Mapping[str, Any],
    metadata: Mapping[str, Any],
    reading: Reading = _OWN,
    views: Views | None = None,
) -> Request:
    """A request for decoded text."""
    settings = decoding_settings(arguments)
    return Request(
        query_of(context, document, metadata, settings.room, reading, views=views),
        max_new_tokens=1 if settings.one_token else settings.max_new_tokens,
        stops=settings.stops,
        max_length=None if settings.one_token else settings.max_length,
    )


def decoding_settings(arguments: Mapping[str, Any]) -> Settings:
    """Reads lm-eval's generation arguments; numbers may be written as text.

    Raises:
        UserError: they ask for sampling, or for something that we do not know.
    """
    _check_greedy(arguments)
    unknown = sorted(set(arguments) - {"until", "do_sample", "temperature", *BUDGETS, *_NEUTRAL, *_IGNORED})
    if unknown:
        raise UserError(f"Unknown generation setting {unknown[0]!r}; allowed: until, max_gen_toks, do_sample=False.")
    given = {name: _whole(name, arguments[name]) for name in BUDGETS if arguments.get(name) is not None}
    budget = next((given[name] for name in NEW_TOKENS if name in given), DEFAULT_MAX_NEW_TOKENS)
    until = [] if arguments.get("until") is None else arguments["until"]
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(s, str) for s in stops):
        raise UserError(f"until is {str(until)[:40]!r}; it has to be a text or a list of texts.")
    # Of a total length the prompt may take all but one token.
    room = 1 if {*given} == {"max_length"} else budget
    return Settings(budget, tuple(filter(None, stops)), given.get("max_length"), "" in stops, room)


def one_prompt_each(lm: Speaker, request: Request) -> list[Request]:
    """The request itself, or one an option where the longest option costs the others part of a prompt that is too long.

    lm-eval cuts the prompt for each option on its own.
    """
    conversation = request.query.receiver
    text = rendered(lm, conversation)[1] if conversation.exact is None else ""
    longest = max(len(option.encode()) for option in request.options)
    if len(request.options) == 1 or len(text.encode()) + longest < lm.max_length - _OPENING_TOKENS:
        return [request]  # no token is shorter than a byte
    try:
        encoded = encode(lm, conversation)
    except ValueError:
        return [request]  # an option without a token is this request's own error, found when it is asked
    if len({*map(len, encoded.options)}) == 1 or len(encoded.ids) + encoded.room <= lm.max_length:
        return [request]
    return [replace(request, options=(option,)) for option in request.options]


def rolling_requests(lm: Speaker, text: str, reading: Reading) -> list[Request]:
    """The windows of lm-eval's rolling loglikelihood; none for an empty text.

    Every token is scored once, behind as much of the text before it as its window holds; the first stands behind the
    opening token. Unlike lm-eval's `hf`, an opening token that the tokenizer adds by itself is not scored as text.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    first, ids = token_seam.open_text(lm.tokenizer, text, reading.start)
    windows = get_rolling_token_windows(list(ids), first, max_seq_len=lm.max_length, context_len=1)
    pairs = [(tuple(before), tuple(scored)) for before, scored in map(make_disjoint_window, windows)]
    return [Request(_exactly(Encoded(before, len(before), (scored,))), options=("",)) for before, scored in pairs]


def _exactly(encoded: Encoded) -> Query:
    return Query(Conversation((), chat=False, exact=encoded))


def _check_greedy(arguments: Mapping[str, Any]) -> None:
    sampled = arguments.get("do_sample")
    sampled = sampled.strip().lower() not in ("false", "0") if isinstance(sampled, str) else sampled
    if sampled:
        raise UserError("Decoding is greedy here; generation setting 'do_sample' allows only False.")
    # With do_sample=False a temperature has no effect, in lm-eval as here.
    temperature = _number("temperature", arguments.get("temperature"), 0.0)
    if sampled is None and temperature != 0.0:
        raise UserError("Decoding is greedy here; generation setting 'temperature' allows only 0 without do_sample.")
    for name, value in _NEUTRAL.items():
        if _number(name, arguments.get(name), value) != value:
            raise UserError(f"Decoding is greedy here; generation setting {name!r} allows only {value:g}.")


def _number(name: str, value: Any, default: float) -> float:
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {str(value)[:40]!r}; it has to be a number.") from None


def _whole(name: str, value: Any) -> int:
    number = math.nan if isinstance(value, bool) else _number(name, value, math.nan)
    if not number >= 1 or number != int(min(number, 2**53)):
        raise UserError(f"{name} is {str(value)[:40]!r}; it has to be a whole number from 1.")
    return int(number)
