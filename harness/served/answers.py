"""From our requests to lm-eval's and back: texts and loglikelihoods of a batch, one result a request in their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.channels.base import PromptTooLong
from harness.channels.common import encode_fitting
from harness.decoding import cut
from harness.errors import UserError
from harness.inference.types import Scored
from harness.prompts import Conversation, continuation, encode, tokenize
from harness.served.backend import Served
from harness.served.calls import results

TokenRequest = tuple[tuple[str, str], list[int], list[int]]


def write(
    served: Served, conversations: Sequence[Conversation], budget: int, stops: Sequence[tuple[str, ...]]
) -> list[str]:
    """Has the engine decode greedily behind each conversation.

    Args:
        served: who writes.
        conversations: what is read.
        budget: new tokens at most.
        stops: stop strings, a tuple a conversation.

    Raises:
        RunError: the engine is not there or lets nobody in.
    """
    from lm_eval.api.instance import Instance

    settings = [{"do_sample": False, "max_gen_toks": budget, **({"until": list(s)} if s else {})} for s in stops]
    prompts = [served.prompt(c) for c in conversations]
    asked = [
        Instance("generate_until", {}, arguments, i) for i, arguments in enumerate(zip(prompts, settings, strict=True))
    ]
    texts = results(served, len(asked), lambda: served.model.generate_until(asked, disable_tqdm=True))
    # Some engines pass on only the first few stop strings.
    return [cut(str(text), stop) for text, stop in zip(texts, stops, strict=True)]


def score(
    served: Served, conversations: Sequence[Conversation], options: Sequence[tuple[str, ...]]
) -> list[tuple[Scored, ...]]:
    """Has the engine score each conversation's options.

    Raises:
        UserError: the engine cannot.
        RunError: it is not there or lets nobody in.
    """
    rows = [(c, option) for c, listed in zip(conversations, options, strict=True) for option in listed]
    ask = _ask_tokens if served.kind == "tokens" else _ask_texts
    try:
        found = results(served, len(conversations), lambda: ask(served, rows), len(rows))
    except NotImplementedError as error:
        raise UserError(cannot_score(served)) from error
    scored = iter(Scored(_loglikelihood(number), bool(greedy)) for number, greedy in found)
    return [tuple(next(scored) for _ in listed) for listed in options]


def cannot_score(served: Served) -> str:
    """The sentence for an engine without loglikelihoods."""
    return (
        f"Backend {served.backend!r} gives no loglikelihoods of options; run tasks that generate, or use an engine "
        "that scores, such as local-completions, vllm or hf."
    )


def length(served: Served, conversation: Conversation, room: int) -> int:
    """Tokens of a prompt; characters where the engine keeps its tokenizer to itself.

    Raises:
        PromptTooLong: the prompt and `room` more tokens do not fit.
    """
    if served.kind != "tokens":
        return len(conversation.plain) + len(conversation.prefix)
    try:
        return len(encode_fitting(served, conversation, room).ids)
    except PromptTooLong as error:
        raise PromptTooLong(f"{error} Where the engine takes more, say so with max_length in its arguments.") from error


def prompt_tokens(served: Served, conversation: Conversation) -> int:
    """Tokens of a prompt; 0 where the engine does not tell."""
    return len(encode(served, conversation).ids) if served.kind == "tokens" else 0


def text_tokens(served: Served, text: str) -> tuple[int, ...]:
    """Token ids of an answer, without the one that ended it; none where the engine does not tell."""
    return tokenize(served, text, chat=True) if served.kind == "tokens" else ()


def token_request(served: Served, conversation: Conversation, option: str) -> TokenRequest:
    """An option behind its prompt as token ids, in the form of lm-eval's engines with a tokenizer."""
    return ("", option), list(encode(served, conversation).ids), list(continuation(served, conversation, option))


def _loglikelihood(number: Any) -> float:
    if not math.isfinite(value := float(number)) or value > 1e-3:
        raise ValueError(f"The engine gave the loglikelihood {value}; it has to be a finite number up to 0.")
    return value


def _ask_tokens(served: Served, rows: Sequence[tuple[Conversation, str]]) -> Any:
    # lm-eval's `loglikelihood` would move a template's closing line break into the option and score it with it.
    requests = [token_request(served, conversation, option) for conversation, option in rows]
    return served.model._loglikelihood_tokens(requests, disable_tqdm=True)


def _ask_texts(served: Served, rows: Sequence[tuple[Conversation, str]]) -> Any:
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, (served.prompt(c), option), i) for i, (c, option) in enumerate(rows)]
    return served.model.loglikelihood(asked, disable_tqdm=True)
