"""How prompts became tokens, in words for records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.errors import UserError
from harness.prompts import Reading, Speaker, ask, render

_KEPT = "kept: white space that ends a chat's prompt is prompt, not option, unless tokens merge; plain text as lm-eval"
_AS_LM_EVAL = "as lm-eval's hf: white space that ends a prompt is scored with the option"


def described(reading: Reading, speakers: Mapping[str, Speaker]) -> dict[str, str]:
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
            render(lm, replace(ask("?"), reading=replace(reading, thinking=thinking)))
            for thinking in (reading.thinking, True, False)
        }
    except UserError:
        return "unknown: no chat template"
    return "changes the prompt" if len(texts) > 1 else "no effect on this chat template"
