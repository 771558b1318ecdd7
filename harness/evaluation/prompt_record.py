"""How the prompts of a run became tokens: in words for its record, and as digests for its identity.

The digests of the prompts, as the models read them, are what samples and a resumed run are compared by. Guarantees that
a chat template that writes another text the second time is refused, before anything is asked or as soon as it happens:
answers to prompts that cannot be identified again are no results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.benchmarks.questions import Benchmark, Item
from harness.errors import RunError, UserError
from harness.evaluation.setup import Cast
from harness.models.chat import (
    TEMPLATE_DATE,
    Conversation,
    Reading,
    Speaker,
    Turn,
    reads_clock,
    render,
    rendered,
    user_turn,
)

_KEPT = "kept: white space that ends a chat's prompt is prompt, not option, unless tokens merge; plain text as lm-eval"

_AS_LM_EVAL = "as lm-eval's hf: white space that ends a prompt is scored with the option"


def prompt_settings(reading: Reading, speakers: Mapping[str, Speaker]) -> dict[str, str]:
    """Names the seam, the thinking switch and whether each model's chat template reads it.

    Args:
        reading: of the prompts.
        speakers: role -> model with a tokenizer.
    """
    thinking = reading.template_arguments.get("enable_thinking")
    told = {
        "seam": _AS_LM_EVAL if reading.as_lm_eval else _KEPT,
        "enable_thinking": "not passed" if thinking is None else str(thinking).lower(),
    }
    return told | {f"enable_thinking, {role}": _effect(reading, lm) for role, lm in speakers.items()}


def _effect(reading: Reading, lm: Speaker) -> str:
    try:
        texts = {
            render(lm, replace(user_turn("?"), reading=replace(reading, thinking=thinking)))
            for thinking in (reading.thinking, True, False)
        }
    except UserError:
        return "unknown: no chat template"
    return "changes the prompt" if len(texts) > 1 else "no effect on this chat template"


# How a template writes an earlier exchange shows only where there is one.
_EXCHANGE = Conversation((Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")))


def models_with_prompts(cast: Cast) -> list[Speaker]:
    """Every model whose prompts are rendered here: the receiver, the sharers, those behind an engine."""
    own = [lm for lm in (cast.receiver, *cast.sharers) if lm is not None]
    return [*own, *(served for served in cast.served if served.kind == "tokens")]


def with_renderings(benchmark: Benchmark, cast: Cast) -> Benchmark:
    """The same questions, each with the digest of its prompt as every model reads it.

    Raises:
        UserError: a template refuses a question.
    """
    models = models_with_prompts(cast)
    items = {
        task: [replace(item, rendered_sha256=_digest(models, item)) for item in asked]
        for task, asked in benchmark.items.items()
    }
    return replace(benchmark, items=items)


def check_unchanged(cast: Cast, items: Iterable[Item]) -> None:
    """Ends the run where a prompt is no longer what it was when the run began.

    Raises:
        RunError: it is not.
    """
    models = models_with_prompts(cast)
    for item in items:
        if item.rendered_sha256 and item.rendered_sha256 != _digest(models, item):
            names = ", ".join(repr(lm.reference.text) for lm in models)
            raise RunError(
                f"The prompt of question {item.doc_id} of {item.task} is not what it was when the run began: a chat "
                f"template of {names} writes something that changes; give another one with --receiver_chat_template "
                "or --sharer_chat_template."
            )


def rendering_identity(cast: Cast, chat: bool) -> dict[str, Any]:
    """What the prompts of questions alone do not pin: how an earlier exchange is written, and the date in use."""
    if not chat:
        return {}
    models = models_with_prompts(cast)
    dated = {"template_date": TEMPLATE_DATE} if any(reads_clock(lm.tokenizer) for lm in models) else {}
    return {"exchanges": [_sha256([_exchange(lm)]) for lm in models], **dated}


def _exchange(lm: Speaker) -> str:
    try:
        return rendered(lm, _EXCHANGE)[1]
    except UserError:
        return ""  # a text message is refused then, with its own sentence


def _digest(models: Sequence[Speaker], item: Item) -> str:
    query = item.request.query
    views = [query.receiver] if query.sharer_view is None else [query.receiver, query.sharer]
    return _sha256([rendered(lm, view)[1] for view in views for lm in models])


def _sha256(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
