"""What an engine is told beside the user's own arguments, which always win.

Guarantees that no engine runs remote code unless it is told so, and that prompts get the special tokens that our own
engine gives them. Only what an engine's constructor takes by name is filled in.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from harness.models import Reference


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
