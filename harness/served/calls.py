"""One call of an engine: its results, or the reason why there are none.

Guarantees one result a request, in their order, or an error for the whole batch, which
`harness.channels.engine` then halves. An engine that is not there, or that lets nobody in, ends the run instead: no
question is at fault, and the run can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from harness.errors import RunError
from harness.served.backend import Served, one_line
from harness.served.reasons import explained, failures_heard, status_of

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
            known = explained(error, bodies)
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
