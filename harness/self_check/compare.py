"""One model read in every way that this harness reads, against plain eager forward calls of transformers.

Guarantees that what is compared are the functions that answer questions (`prefill`, `extend`, `score`), on sequences
that go past every window, chunk and original length of the small model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.channels.common import prefill
from harness.decoding import score
from harness.forward import Counters, extend, left_padded
from harness.inference.types import CallStats, Context
from harness.models import LM
from harness.prompts import Encoded
from harness.self_check.small import LENGTH

# Nats, in float32.
TOLERANCE = 2e-3
_DECODED = 2
_FIRST_ID = 8  # behind the special tokens of a small vocabulary


@dataclass(frozen=True)
class Sequences:
    """What is read: rows of token ids, each a prompt with the tokens decoded behind it, and options of each prompt.

    Of three options one is what is decoded and one is a single token, so that the row itself knows their likelihoods.
    """

    rows: tuple[tuple[int, ...], ...]
    options: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """The rows without what is decoded."""
        return [row[:-_DECODED] for row in self.rows]


def sequences(vocabulary: int, seed: int = 1) -> Sequences:
    """Rows of very different lengths, the same for every model of that vocabulary."""
    source = torch.Generator().manual_seed(seed)

    def ids(n: int) -> tuple[int, ...]:
        low = min(_FIRST_ID, vocabulary - 1)
        return tuple(torch.randint(low, vocabulary, (n,), generator=source).tolist())

    rows = tuple(ids(n + _DECODED) for n in (LENGTH - 4, 6, LENGTH - 17))
    return Sequences(rows, tuple((ids(3), ids(1), row[-_DECODED:]) for row in rows))


class Plain:
    """What transformers computes without a cache, one row at a time; each sequence is read once.

    Attributes:
        rows: log-probabilities [1 + decoded, vocabulary] of each row, from the end of its prompt on.
        options: loglikelihoods in nats of each row's options.
    """

    def __init__(self, model: Any, asked: Sequences) -> None:
        self.rows = [_reference(model, row, _DECODED) for row in asked.rows]
        longest = [
            _reference(model, prompt + options[0], len(options[0]))
            for prompt, options in zip(asked.prompts, asked.options, strict=True)
        ]
        self.options = [
            [_loglikelihood(own, options[0]), *(_loglikelihood(row, option) for option in options[1:])]
            for own, row, options in zip(longest, self.rows, asked.options, strict=True)
        ]


def _reference(model: Any, ids: Sequence[int], decoded: int) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    return logits[0, -decoded - 1 :].float().log_softmax(-1)


def _loglikelihood(predicted: Tensor, option: Sequence[int]) -> float:
    """Sums what was predicted for an option.

    Args:
        predicted: log-probabilities [at least len(option), vocabulary], of the option's first token first.
        option: token ids.
    """
    return float(predicted[: len(option)].gather(-1, torch.tensor(option)[:, None]).sum())


def read_ids(lm: LM, rows: Sequence[Sequence[int]]) -> Context:
    """Reads prompts that are given by their token ids."""
    return prefill(lm, [Encoded(tuple(row), len(row)) for row in rows], CallStats())


def decoding_gap(lm: LM, plain: Plain, asked: Sequences, rows: Sequence[int]) -> float:
    """Largest difference in nats over rows that are read and gone on with in one batch."""
    with torch.inference_mode():
        context = read_ids(lm, [asked.prompts[r] for r in rows])
        read = [context.logits]
        for step in range(_DECODED):
            tokens = [[asked.rows[r][step - _DECODED]] for r in rows]
            starts = [len(asked.prompts[r]) + step for r in rows]
            logits = extend(lm, context.buffer, left_padded(tokens, starts, lm), Counters(), keep=1)
            assert logits is not None
            read.append(logits[:, -1])
    ours = torch.stack(read, dim=1).float().log_softmax(-1)  # [rows, 1 + decoded, vocabulary]
    return _largest(ours - torch.stack([plain.rows[r] for r in rows]))


def options_gap(lm: LM, plain: Plain, asked: Sequences, rows: Sequence[int], side_by_side: bool) -> float:
    """Largest difference in nats over the options of rows in one batch, all options at once or one after the other."""
    most = len(asked.options[0])
    groups = [slice(0, most)] if side_by_side else [slice(i, i + 1) for i in range(most)]
    gaps = []
    with torch.inference_mode():
        context = read_ids(lm, [asked.prompts[r] for r in rows])
        for group in groups:
            scored = score(context, [asked.options[r][group] for r in rows], CallStats())
            for r, own in zip(rows, scored, strict=True):
                expected = plain.options[r][group]
                gaps += [one.loglikelihood - value for one, value in zip(own, expected, strict=True)]
    return _largest(torch.tensor(gaps))


def _largest(difference: Tensor) -> float:
    return float(difference.abs().nan_to_num(float("inf")).max())
