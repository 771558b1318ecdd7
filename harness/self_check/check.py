"""Whether a model is read correctly: a verdict on a small copy, then a short batch of the model itself.

A small copy of the model's own configuration goes through every way of reading. Every configuration gets a verdict:
read together, read one by one, or refused in a sentence that names the kind of model and what would work. The loaded
model then reads one short batch, which has to give what transformers alone would. Guarantees that a model which this
harness would get wrong is refused once, before anything is asked.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.inference.attention_mask import MASKS
from harness.models.lm import LM, Together, cache_argument
from harness.models.loading import EAGER, PLAIN_CACHE
from harness.models.reference import Reference
from harness.self_check.compare import (
    TOLERANCE,
    Plain,
    Sequences,
    decoding_gap,
    factors_change,
    options_gap,
    probe_sequences,
    read_ids,
    read_structure,
)
from harness.self_check.small import small_config, small_model

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
        asked = probe_sequences(int(keyed.config.get_text_config(decoder=True).vocab_size))
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
    foreign = read_structure(eager).foreign
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


_ROW = (1, 2, 3, 4, 5)

_ROWS = (_ROW, _ROW[:2])  # both end within one plain forward call

# Relative differences of logits that rounding explains, by whether they are kept in 32 bits.
_EXACT, _ROUNDED = 1e-3, 0.2


def checked(lm: LM) -> LM:
    """Returns the model as it has to be read.

    Args:
        lm: as `harness.models.loading.load` returns it.

    Raises:
        UserError: its answers would differ from those of a plain forward call of transformers; says why and what works.
    """
    seen = read_structure(lm, _ROW)
    if seen.logits is None:
        raise refusal(lm, str(seen.foreign), PLAIN_CACHE)
    together = _of_its_kind(lm)
    lm = replace(lm, together=replace(together, factors_change=factors_change(lm.model)))
    return _short_batch(lm, seen.logits)


def refusal(lm: LM, why: str, remedy: str) -> UserError:
    """The sentence that names the model, its type, what is wrong and what would work."""
    return UserError(f"Model {lm.reference.text!r} ({lm.model.config.model_type}) cannot be used: {why}; {remedy}.")


def _of_its_kind(lm: LM) -> Together:
    attention = str(lm.config._attn_implementation)
    if attention not in MASKS:
        return Together(checked=f"no small copy was read, because {attention} needs a GPU")
    found = verdict(type(lm.model), lm.model.config, attention)
    if found.refused is not None:
        raise refusal(lm, found.refused, found.remedy)
    return found.together


def _short_batch(lm: LM, plain: Tensor) -> LM:
    """Reads a short row and its beginning together, with the model itself.

    Args:
        lm: the model.
        plain: [tokens, vocabulary], its logits over the row in a plain forward call.
    """
    expected = [plain[len(row) - 1] for row in _ROWS]
    if not all(bool(one.isfinite().all()) for one in expected):
        return lm  # every question will say where its numbers end
    tolerance = _EXACT if lm.dtype == torch.float32 else _ROUNDED
    if _gap(lm, expected) <= tolerance:
        return lm
    told = f"{lm.together.checked}; its own weights differ in a batch, so everything is read one by one"
    alone = replace(lm, together=replace(lm.together, padded=False, branched=False, checked=told.lstrip("; ")))
    gap = _gap(alone, expected)
    if gap > tolerance:
        raise refusal(lm, f"its logits differ by {gap:.0%} from those of a plain forward call", EAGER)
    return alone


def _gap(lm: LM, expected: list[Tensor]) -> float:
    with torch.inference_mode():
        found = read_ids(lm, _ROWS).logits.float()
    gaps = [(ours - plain).norm() / (plain - plain.mean()).norm() for ours, plain in zip(found, expected, strict=True)]
    return float(torch.stack(gaps).max())
