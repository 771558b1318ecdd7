"""lm-eval's engines by name, each set up for one model.

Guarantees that a name which lm-eval does not know, a package that is missing and an engine that cannot read the
prompts are refused in one sentence, before anything is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.channels.registry import CHANNELS
from harness.config.served import pairs
from harness.errors import UserError, unknown
from harness.model_args import ALIASES
from harness.models import Reference, drop_sampling, parse_reference
from harness.prompts import Conversation, ask, render
from harness.served.arguments import filled_in
from harness.served.reasons import without_task_dumps

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
    filled = filled_in(backend, engine, reference, dict(pairs(arguments)), chat, batch_size)
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
        raise UserError(f"Backend {served.backend!r} takes chats only; leave --no-chat-template out.")
    if not chat:
        return
    try:
        prompt = served.prompt(ask("?"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"Backend {served.backend!r} renders no chats: {one_line(error)}; {_PLAIN}") from error
    if served.kind != "chat" and not isinstance(prompt, str):
        raise UserError(f"Backend {served.backend!r} renders no chats here; {_PLAIN}")


_PLAIN = "send plain text with --no-chat-template, or name a transformers tokenizer in its arguments."
