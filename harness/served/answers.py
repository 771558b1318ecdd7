"""From our requests to lm-eval's and back: texts and loglikelihoods of a batch.

Guarantees one result a request, in their order, or an error for the whole batch, which `harness.engine` then halves. An
engine that is not there, or that lets nobody in, ends the run instead: no question is at fault, and the run can be
resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness.channels.base import PromptTooLong
from harness.channels.common import encode_fitting
from harness.decoding import Scored, cut
from harness.errors import RunError, UserError
from harness.prompts import Conversation, continuation, encode, tokenize
from harness.served.backend import Served, one_line

R = TypeVar("R")
_LETS_NOBODY_IN = {401: "refuses the access token", 403: "refuses access", 404: "knows no such address or model"}


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
    texts = _asked(served, len(asked), lambda: served.model.generate_until(asked, disable_tqdm=True))
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
        found = _asked(served, len(conversations), lambda: ask(served, rows), len(rows))
    except NotImplementedError as error:
        raise UserError(cannot_score(served)) from error
    scored = iter(Scored(float(number), bool(greedy)) for number, greedy in found)
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


def _ask_tokens(served: Served, rows: Sequence[tuple[Conversation, str]]) -> Any:
    # lm-eval's `loglikelihood` would move a template's closing line break into the option and score it with it.
    requests = [
        (("", option), list(encode(served, c).ids), list(continuation(served, c, option))) for c, option in rows
    ]
    return served.model._loglikelihood_tokens(requests, disable_tqdm=True)


def _ask_texts(served: Served, rows: Sequence[tuple[Conversation, str]]) -> Any:
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, (served.prompt(c), option), i) for i, (c, option) in enumerate(rows)]
    return served.model.loglikelihood(asked, disable_tqdm=True)


def _asked(served: Served, questions: int, call: Callable[[], Sequence[R]], expected: int | None = None) -> Sequence[R]:
    try:
        found = call()
    except Exception as error:
        _end_where_nobody_answers(served, questions, error)
        raise
    wanted = questions if expected is None else expected
    if len(found) != wanted or any(one is None for one in found):
        raise ValueError(f"The engine gave {len(found)} results for {wanted} requests.")
    return found


def _end_where_nobody_answers(served: Served, questions: int, error: Exception) -> None:
    """Raises for the whole run; a lost connection only once a single question meets it again."""
    import aiohttp
    import requests

    reason = _LETS_NOBODY_IN.get(_status(error))
    if questions == 1 and isinstance(error, (requests.ConnectionError, aiohttp.ClientConnectionError, ConnectionError)):
        reason = "does not answer"
    if reason is not None:
        raise RunError(
            f"Backend {served.backend!r} of the {served.role} {reason} ({one_line(error)}); what was answered before "
            "is kept, see to the engine and resume the run."
        ) from error


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) if response is None else getattr(response, "status_code", None)
    return status if isinstance(status, int) else 0
