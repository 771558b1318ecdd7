"""What a kind of model can be trusted with, found on a small copy of it.

Guarantees a verdict for every configuration: read together, read one by one, or refused in a sentence that names the
kind of model and what would work.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.errors import UserError
from harness.models import EAGER, LM, PLAIN_CACHE, Reference, Together, cache_argument
from harness.self_check.compare import TOLERANCE, Plain, Sequences, decoding_gap, options_gap, sequences
from harness.self_check.rope import factors_change
from harness.self_check.small import small_config, small_model
from harness.self_check.structure import structure

_ANOTHER = "no --attention cures it, so choose another model"


@dataclass(frozen=True)
class Verdict:
    """Outcome for one kind of model.

    Attributes:
        together: how it is read.
        refused: why it is not; None where it is.
        remedy: what would work, for a refusal.
    """

    together: Together
    refused: str | None = None
    remedy: str = ""


def verdict(architecture: Any, config: Any, attention: str) -> Verdict:
    """Checks a small copy of a model; the same configuration is checked once in a process.

    Args:
        architecture: the model's class.
        config: the model's configuration.
        attention: the implementation in force.
    """
    try:
        small = small_config(config)
        key = json.dumps(small.to_dict(), sort_keys=True, default=str)
    except Exception as error:
        return _unchecked(error)
    return _verdict(architecture, _Keyed(key, small), attention)


@dataclass(frozen=True, eq=False)
class _Keyed:
    key: str
    config: Any

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and other.key == self.key


@functools.cache
def _verdict(architecture: Any, keyed: _Keyed, attention: str) -> Verdict:
    try:
        eager = small_model(architecture, keyed.config, "eager")
        asked = sequences(int(keyed.config.get_text_config(decoder=True).vocab_size))
        plain = Plain(eager, asked)
    except Exception as error:
        return _unchecked(error)
    try:
        lm = small_lm(small_model(architecture, keyed.config, attention))
    except Exception as error:
        return Verdict(Together(), f"--attention {attention} does not go with it ({_short(error)})", EAGER)
    return _judged(lm, small_lm(eager), plain, asked, attention)


def small_lm(model: Any) -> LM:
    """A small model as it is read; it speaks no language."""
    lm = LM(
        model=model,
        tokenizer=None,
        reference=Reference("small copy", ""),
        device=torch.device("cpu"),
        dtype=torch.float32,
        stop_ids=frozenset(),
        pad_id=0,
        max_length=2**31 - 1,
        cache_argument=cache_argument(model.__class__),
    )
    return replace(lm, together=Together(factors_change=factors_change(model)))


def _judged(lm: LM, eager: LM, plain: Plain, asked: Sequences, attention: str) -> Verdict:
    foreign = structure(eager).foreign
    if foreign is not None:
        return Verdict(Together(), foreign, PLAIN_CACHE)
    everything = range(len(asked.rows))
    failed = _alone(lm, plain, asked)
    if failed is not None:
        cured = attention != "eager" and _alone(eager, plain, asked) is None
        return Verdict(Together(), failed, EAGER if cured else _ANOTHER)
    padded = _holds(lambda: decoding_gap(lm, plain, asked, everything))
    branched = _holds(lambda: options_gap(lm, plain, asked, [0], side_by_side=True))
    together = replace(lm.together, padded=padded, branched=branched)
    lm = replace(lm, together=together)
    failed = None if padded else _fault("in a batch", lambda: decoding_gap(lm, plain, asked, everything))
    failed = failed or _fault(
        "with several options", lambda: options_gap(lm, plain, asked, everything, side_by_side=True)
    )
    if failed is not None:
        return Verdict(Together(), failed, _ANOTHER)
    return Verdict(replace(together, checked=_told(together)))


def _alone(lm: LM, plain: Plain, asked: Sequences) -> str | None:
    for row in range(len(asked.rows)):
        decoding = functools.partial(decoding_gap, lm, plain, asked, [row])
        options = functools.partial(options_gap, lm, plain, asked, [row], side_by_side=False)
        failed = _fault("alone", decoding) or _fault("with options", options)
        if failed is not None:
            return failed
    return None


def _fault(how: str, gap: Callable[[], float]) -> str | None:
    try:
        found = gap()
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"it cannot be read {how} ({_short(error)})"
    if found <= TOLERANCE:
        return None
    return f"read {how} it differs from transformers' own eager forward call by {found:.2g} nats"


def _holds(gap: Callable[[], float]) -> bool:
    return _fault("", gap) is None


def _told(together: Together) -> str:
    parts = [] if together.padded else ["rows of different lengths"]
    parts += [] if together.branched else ["options of one prompt"]
    told = f"{' and '.join(parts)} are read one by one" if parts else "equal to a plain forward call"
    if together.factors_change is not None:
        told += f"; RoPE factors change at {together.factors_change} tokens"
    return told


def _unchecked(error: Exception) -> Verdict:
    told = f"no small copy could be made ({_short(error)}); everything is read one by one"
    return Verdict(Together(padded=False, branched=False, checked=told))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
