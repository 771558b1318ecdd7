"""Whether a model that was just loaded answers as transformers alone would, and how it has to be read so that it does.

Guarantees one refusal, before anything is asked, for a model that this harness would get wrong. A small copy of the
model's own configuration goes through every way of reading; the model itself reads one short batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.masks import MASKS
from harness.models import EAGER, LM, PLAIN_CACHE, Together
from harness.self_check.compare import read_ids
from harness.self_check.rope import factors_change
from harness.self_check.structure import structure
from harness.self_check.verdict import verdict

_ROW = (1, 2, 3, 4, 5)
_ROWS = (_ROW, _ROW[:2])  # both end within one plain forward call
# Relative differences of logits that rounding explains, by whether they are kept in 32 bits.
_EXACT, _ROUNDED = 1e-3, 0.2


def checked(lm: LM) -> LM:
    """Returns the model as it has to be read.

    Args:
        lm: as `harness.models.load` returns it.

    Raises:
        UserError: its answers would differ from those of a plain forward call of transformers; says why and what works.
    """
    seen = structure(lm, _ROW)
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
