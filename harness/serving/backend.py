"""lm-eval's engines by name, set up for one model, with their refusals in one sentence.

A name that lm-eval does not know, a missing package and an engine that cannot read the prompts are refused before
anything is asked. A request that a server refuses shows as one sentence, taken from its answer or from lm-eval's log;
what lm-eval and asyncio print of such a failure is taken off the terminal, and their other output stays.

No engine runs remote code unless told so, and prompts get the special tokens that the embedded engine gives them. Only
what an engine's constructor takes by name is filled in, and the user's own arguments always win.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.channels.registry import ALIASES, CHANNELS
from harness.config.validation import name_value_pairs
from harness.errors import UserError, unknown
from harness.models.chat import Conversation, render, user_turn
from harness.models.loading import drop_sampling
from harness.models.reference import Reference, parse_reference
from harness.records.files import scrub

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


def with_server_reason(error: Exception, bodies: Mapping[int, str]) -> Exception:
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


def filled_in(
    backend: str, engine: Any, reference: Reference, given: Mapping[str, str], chat: bool, batch_size: int
) -> dict[str, Any]:
    """Returns what the arguments leave open: the model's name, and our own engine's way of reading prompts.

    Args:
        backend: lm-eval's name of the engine.
        engine: lm-eval's class.
        reference: the model as our own engine names it.
        given: the user's arguments.
        chat: prompts are chats, whose template writes the special tokens that it wants.
        batch_size: questions handed over at once.
    """
    known = _parameters(engine)
    wanted: dict[str, Any] = {"add_bos_token": not chat, "trust_remote_code": False}
    if not {"pretrained", "model"} & given.keys():
        wanted["pretrained" if "pretrained" in known else "model"] = reference.source
        wanted["gguf_file"] = reference.gguf_file
    if known.get("tokenizer_backend") in ("auto", "huggingface") and "chat" not in backend:
        # An engine that asks the server for its tokenizer renders no chats.
        wanted |= {"tokenizer_backend": "huggingface"}
        if given.get("tokenizer_backend", "huggingface") == "huggingface":
            wanted["tokenizer"] = reference.source
    if not {"pretrained", "tokenizer"} & given.keys():
        wanted["revision"] = reference.revision
    if known.get("device") == "cuda" and not torch.cuda.is_available():
        wanted["device"] = "cpu"
    if known.get("batch_size") == 1:
        wanted["batch_size"] = batch_size
    return {n: v for n, v in wanted.items() if n in known and n not in given and v is not None}


def _parameters(engine: Any) -> dict[str, Any]:
    """Names and defaults of everything that an engine's constructor and those it hands on to take by name."""
    found: dict[str, Any] = {}
    for cls in reversed(engine.__mro__[:-1]):
        if "__init__" in vars(cls):
            found |= {n: p.default for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"}
    return found


Kind = Literal["tokens", "chat", "text"]

_UNKNOWN_LENGTH = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Served:
    """A model behind an engine.

    Attributes:
        role: ``receiver`` or ``sharer``.
        backend: lm-eval's name of the engine.
        reference: the model's name.
        model: lm-eval's model object.
        kind: ``tokens``: it has a transformers tokenizer, so prompts are rendered and cut as for our own engine;
            ``chat``: it takes chats and hands back texts only; ``text``: it takes plain text.
    """

    role: str
    backend: str
    reference: Reference
    model: Any
    kind: Kind

    @property
    def tokenizer(self) -> Any:
        """The engine's tokenizer, where `kind` is ``tokens``."""
        return self.model.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that the engine takes, prompt and answer together."""
        return int(getattr(self.model, "max_length", None) or _UNKNOWN_LENGTH)

    def prompt(self, conversation: Conversation) -> Any:
        """What the engine is sent: rendered text, or the chat itself where it renders on its own."""
        if self.kind == "tokens" or not conversation.chat:
            return render(self, conversation) + conversation.prefix
        rendered = self.model.apply_chat_template(conversation.messages)
        return rendered if self.kind == "chat" else rendered + conversation.prefix


def build(role: str, backend: str, name: str, arguments: str, *, chat: bool, batch_size: int) -> Served:
    """Sets an engine up for one model.

    Args:
        role: ``receiver`` or ``sharer``.
        backend: lm-eval's name of the engine.
        name: the model, as our own engine names it; used where `arguments` name none.
        arguments: lm-eval's ``model_args``; they win over everything that is filled in here.
        chat: prompts are chats.
        batch_size: questions handed over at once.

    Raises:
        UserError: the engine is unknown, cannot be set up, or cannot read such prompts.
    """
    engine, reference = _engine(backend), _reference(name)
    filled = filled_in(backend, engine, reference, dict(name_value_pairs(arguments)), chat, batch_size)
    try:
        model = engine.create_from_arg_string(arguments, filled)
    except Exception as error:  # what sets up an engine raises every kind
        raise UserError(f"Backend {backend!r} of the {role} {name!r} cannot be set up: {one_line(error)}") from error
    _make_greedy(model)
    without_task_dumps(model)
    served = Served(role, backend, reference, model, _kind(backend, model))
    _check_reads(served, chat)
    return served


def one_line(error: BaseException) -> str:
    """Kind and words of an error, cut to one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _engine(backend: str) -> Any:
    import lm_eval.models  # noqa: F401 - fills the registry
    from lm_eval.api.registry import get_model, model_registry

    ours = {*CHANNELS.names(), *ALIASES}
    names = ["harness", *(name for name in model_registry if name not in ours)]
    if backend not in names:
        raise unknown("backend", backend, names)
    try:
        return get_model(backend)
    except Exception as error:  # an engine's package may be missing or broken in every way
        raise UserError(f"Backend {backend!r} cannot be imported: {one_line(error)}; install its package.") from error


def _reference(name: str) -> Reference:
    try:
        return parse_reference(name)
    except UserError:
        return Reference(name, name)  # a server may call its model whatever it likes


def _make_greedy(model: Any) -> None:
    from transformers import PreTrainedModel

    inner = getattr(model, "model", None)
    if isinstance(inner, PreTrainedModel):
        drop_sampling(inner)  # a model in this process decodes as one of our own engine does


def _kind(backend: str, model: Any) -> Kind:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.openai_completions import LocalChatCompletion
    from transformers import PreTrainedTokenizerBase

    if "chat" in backend or isinstance(model, LocalChatCompletion):
        return "chat"
    spoken = isinstance(getattr(model, "tokenizer", None), PreTrainedTokenizerBase)
    return "tokens" if spoken and isinstance(model, TemplateLM) else "text"


def _check_reads(served: Served, chat: bool) -> None:
    if served.kind == "chat" and not chat:
        raise UserError(f"Backend {served.backend!r} takes chats only; leave --no-chat out.")
    if not chat:
        return
    try:
        prompt = served.prompt(user_turn("?"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"Backend {served.backend!r} renders no chats: {one_line(error)}; {_PLAIN}") from error
    if served.kind != "chat" and not isinstance(prompt, str):
        raise UserError(f"Backend {served.backend!r} renders no chats here; {_PLAIN}")


_PLAIN = "send plain text with --no-chat, or name a transformers tokenizer in its arguments."
