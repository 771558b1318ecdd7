"""Whether a server scores prompts at all, asked once before a run that compares options.

A server of completions may leave ``echo`` out, answer in the form of chats or read another prompt than it was sent,
all with status 200; lm-eval would read zeros or the neighbours' numbers from that. Guarantees that such a server is
refused, and that a single question which fails for reasons of its own is not taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from harness.accuracy import Item
from harness.channels.base import PromptTooLong
from harness.errors import RunError, UserError
from harness.served.answers import cannot_score, length, token_request
from harness.served.backend import Served, one_line
from harness.served.calls import call

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
