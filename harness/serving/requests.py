"""Requests to an external engine: texts, loglikelihoods, and whether it scores prompts at all.

Guarantees one result a request, in their order, or an error for the whole batch, which `harness.channels.engine` then
halves. An engine that cannot be reached or refuses access ends the run instead: no question is at fault, and the run
can be resumed.

Whether a server scores prompts is asked once, before a run that compares options. A server of completions may leave
``echo`` out, answer in the form of chats, or read another prompt than it was sent, all with status 200; lm-eval would
read zeros or the neighbours' numbers from that. Such a server is refused; a single question that fails for reasons of
its own is not taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from harness.benchmarks.questions import Item
from harness.channels.interface import PromptTooLong
from harness.channels.prompt_layout import encode_fitting
from harness.errors import RunError, UserError
from harness.inference.generate import cut_at_stops
from harness.inference.types import Scored
from harness.models.chat import Conversation, continuation_ids, encode, tokenize
from harness.serving.backend import Served, failures_heard, one_line, status_of, with_server_reason

R = TypeVar("R")

_LETS_NOBODY_IN = {401: "refuses the access token", 403: "refuses access", 404: "knows no such address or model"}


def call(served: Served, questions: int, ask: Callable[[], R]) -> R:
    """Asks an engine something.

    Args:
        served: who is asked.
        questions: how many it is asked at once.
        ask: the call.

    Raises:
        RunError: the engine is not there or lets nobody in.
        Exception: whatever else went wrong, with the server's own reason in its words.
    """
    with failures_heard() as bodies:
        try:
            return ask()
        except Exception as error:
            known = with_server_reason(error, bodies)
            _end_where_nobody_answers(served, questions, known)
            if known is error:
                raise
            raise known from error


def results(served: Served, questions: int, ask: Callable[[], Sequence[R]], expected: int | None = None) -> Sequence[R]:
    """Asks an engine for one result a request; see `call`.

    Args:
        served: who is asked.
        questions: how many it is asked at once.
        ask: the call.
        expected: how many results there have to be; None: one a question.

    Raises:
        ValueError: results are missing.
    """
    given = call(served, questions, ask)
    wanted = questions if expected is None else expected
    if len(given) != wanted or any(one is None for one in given):
        raise ValueError(f"The engine gave {len(given)} results for {wanted} requests.")
    return given


def _end_where_nobody_answers(served: Served, questions: int, error: Exception) -> None:
    """Raises for the whole run; a lost connection only once a single question meets it again."""
    import aiohttp
    import requests

    reason = _LETS_NOBODY_IN.get(status_of(error))
    if questions == 1 and isinstance(error, (requests.ConnectionError, aiohttp.ClientConnectionError, ConnectionError)):
        reason = "does not answer"
    if reason is not None:
        raise RunError(
            f"Backend {served.backend!r} of the {served.role} {reason} ({one_line(error)}); what was answered before "
            "is kept, see to the engine and resume the run."
        ) from error


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
    return [cut_at_stops(str(text), stop) for text, stop in zip(texts, stops, strict=True)]


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
    return ("", option), list(encode(served, conversation).ids), list(continuation_ids(served, conversation, option))


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


_TRIES = 3

_COLUMNS = ("token_logprobs", "top_logprobs")

_ONLY_WRITTEN = (
    "gives no prompt loglikelihoods, only those of the tokens that it writes (logprobs.content, as llama.cpp has it)"
)


def check_scores(served: Served, items: Iterable[Item]) -> None:
    """Has a server score an option of one question, whose token ids are known.

    Args:
        served: the server; an engine in this process is not asked.
        items: the questions of the run; the shortest that fit are tried.

    Raises:
        UserError: it gives no loglikelihoods of what it was sent.
        RunError: it is not there or lets nobody in.
    """
    if not _is_server(served):
        return
    failure: Exception | None = None
    for item in _tried(served, items):
        try:
            wrong = _wrong(served, item)
        except (UserError, RunError):
            raise
        except Exception as error:  # a server refuses in every way; this question alone may be the reason
            failure = error
            continue
        if wrong:
            raise UserError(f"Backend {served.backend!r} of the {served.role} {wrong}. {cannot_score(served)}")
        return
    if failure is not None:
        raise UserError(
            f"Backend {served.backend!r} of the {served.role} scores no question ({one_line(failure)}). "
            f"{cannot_score(served)}"
        ) from failure


def _is_server(served: Served) -> bool:
    from lm_eval.models.api_models import TemplateAPI

    return isinstance(served.model, TemplateAPI) and served.kind == "tokens"


def _tried(served: Served, items: Iterable[Item]) -> list[Item]:
    sized = []
    for number, item in enumerate(items):
        if not item.request.options:
            continue
        query = item.request.query
        try:
            sized.append((length(served, query.receiver, query.room), number, item))
        except PromptTooLong:
            continue
    return [item for _, _, item in sorted(sized)[:_TRIES]]


def _wrong(served: Served, item: Item) -> str:
    """What is wrong with the loglikelihoods of one question and its first option; empty where nothing is."""
    _, prompt, option = token_request(served, item.request.query.receiver, item.request.options[0])
    ids = prompt + option
    return _read(call(served, 1, lambda: served.model.model_call([ids], generate=False)), len(ids))


def _read(answer: Any, tokens: int) -> str:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    logprobs = choices[0].get("logprobs") if choices else None
    given, best = (logprobs.get(n) if isinstance(logprobs, Mapping) else None for n in _COLUMNS)
    if not isinstance(given, list) or not isinstance(best, list):
        chats = isinstance(logprobs, Mapping) and "content" in logprobs
        return _ONLY_WRITTEN if chats else "gives no logprobs of tokens with the best tokens beside them"
    if len(given) == 1:
        return "ignores echo: it gives the loglikelihood of the token that it writes and none of the prompt's"
    if not len(given) == len(best) == tokens + 1:
        return f"reads another number of tokens than it is sent ({tokens}, and answers with {len(given)})"
    numbers = given[1:tokens]
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        return "gives loglikelihoods that are no finite numbers"
    return "gives every token the same loglikelihood" if len(set(numbers)) == 1 < len(numbers) else ""
