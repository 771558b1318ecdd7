"""What a server itself says of a request that it refuses, read from its answer or from what lm-eval logs of it.

Guarantees that a failure shows as one sentence: what lm-eval and asyncio would print of it on the way is taken off the
terminal, whatever else they say stays.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.records.secret import scrub

_LONGEST = 300
_LOGGED = re.compile(r"API request failed! Status code: (\d+), Response text: (.*)\. Retrying\.\.\.", re.DOTALL)
_OF_FAILURES = ("API request failed", "Exception:", "Retry attempt")


@contextmanager
def failures_heard() -> Iterator[dict[int, str]]:
    """Collects the bodies of refused requests by HTTP status while the block runs; lm-eval only logs them."""
    bodies: dict[int, str] = {}
    logger = logging.getLogger("lm_eval.models.api_models")
    own_level, shown_from = logger.level, logger.getEffectiveLevel()

    def hear(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if logged := _LOGGED.match(said):
            bodies[int(logged.group(1))] = logged.group(2)
        return record.levelno >= shown_from and not said.startswith(_OF_FAILURES)

    logger.addFilter(hear)
    logger.setLevel(min(shown_from, logging.WARNING))  # a quiet lm-eval would say nothing that could be heard
    try:
        yield bodies
    finally:
        logger.setLevel(own_level)
        logger.removeFilter(hear)


def without_task_dumps(model: Any) -> None:
    """Keeps asyncio from printing the requests that fail beside the one whose error is raised."""
    ask_together = getattr(model, "get_batched_requests", None)
    if ask_together is None:
        return

    async def ask_quietly(*arguments: Any, **named: Any) -> Any:
        import asyncio

        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await ask_together(*arguments, **named)

    model.get_batched_requests = ask_quietly


def status_of(error: BaseException) -> int:
    """HTTP status of a refused request; 0 where the error is none."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) if response is None else getattr(response, "status_code", None)
    return status if isinstance(status, int) else 0


def explained(error: Exception, bodies: Mapping[int, str]) -> Exception:
    """Returns the error with the server's reason in its words, of the same kind; other errors as they are."""
    import aiohttp
    import requests

    response = getattr(error, "response", None)
    reason = reason_in(bodies.get(status_of(error), "") if response is None else str(response.text))
    if not reason:
        return error
    if isinstance(error, aiohttp.ClientResponseError):
        words = f"{error.message}; the server says: {reason}"
        return type(error)(error.request_info, error.history, status=error.status, message=words, headers=error.headers)
    if isinstance(error, requests.HTTPError):
        return type(error)(f"{error}; the server says: {reason}", response=response)
    return error


def reason_in(body: str) -> str:
    """The reason in the body of a refusal, whose form differs from server to server; empty where there is none."""
    try:
        said = json.loads(body)
    except ValueError:
        said = body
    for _ in range(2):  # {"error": {"message": ...}} as well as {"message": ...}
        if isinstance(said, Mapping):
            said = next((said[name] for name in ("error", "message", "detail") if said.get(name)), said)
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return scrub(" ".join(text.split()))[:_LONGEST]
