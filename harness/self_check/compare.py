"""Compares every way of reading a model with plain eager forward calls, and looks at its cache and RoPE.

What is compared are the functions that answer questions (`prefill`, `extend`, `score`), on sequences that go past every
window, chunk and original length of the small model. RoPE variants whose factors depend on the longest sequence of a
batch are recognised.

One short forward call of the model, never its configuration, shows whether its cache is what this harness stores: one
key and one value a token, layer and head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.channels.prompt_layout import prefill
from harness.inference.forward import extend, left_padded
from harness.inference.generate import score
from harness.inference.types import CallStats, Context, Counters
from harness.models.chat import Encoded
from harness.models.lm import LM
from harness.models.loading import unusual_cache
from harness.self_check.small import LENGTH

_BY_LENGTH = ("dynamic", "longrope")


def factors_change(model: Any) -> int | None:
    """Length in tokens from which on a model takes other RoPE factors for the whole batch; None where it never does.

    Asked of the modules that make the factors, by the rule of transformers' own `dynamic_rope_update`.
    """
    lengths = [_length(module) for module in model.modules() if hasattr(module, "rope_type")]
    return min((length for length in lengths if length is not None), default=None)


def _length(module: Any) -> int | None:
    kinds = module.rope_type if isinstance(module.rope_type, dict) else {None: module.rope_type}
    found = [_of_kind(module, layer, str(kind)) for layer, kind in kinds.items() if _by_length(str(kind))]
    return min(found, default=None)


def _by_length(kind: str) -> bool:
    return any(name in kind for name in _BY_LENGTH)


def _of_kind(module: Any, layer: str | None, kind: str) -> int:
    if "dynamic" in kind:
        return int(module.original_max_seq_len)
    rope = module.config.rope_parameters
    return int((rope if layer is None else rope[layer])["original_max_position_embeddings"])


class _Recorder(DynamicLayer):
    """A cache layer that remembers the shapes of what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Returns what it is given."""
        self.stored.append((_shape(key_states), _shape(value_states)))
        return key_states, value_states


def _shape(entry: Tensor) -> tuple[int, ...]:
    return (entry.shape[1], entry.shape[3])


@dataclass(frozen=True)
class Structure:
    """What one forward call over a short row shows.

    Attributes:
        foreign: why the cache cannot be stored; None where it can.
        logits: [tokens, vocabulary], as transformers alone computes them; None where `foreign` says why not.
    """

    foreign: str | None
    logits: Tensor | None = None


def read_structure(lm: LM, row: Sequence[int] = (1, 2, 3, 4, 5)) -> Structure:
    """Reads one row of token ids and looks at what is stored.

    Args:
        lm: reads the row without anything of this harness.
        row: a few token ids.
    """
    unusual = unusual_cache(lm.config)
    if unusual is not None:
        return Structure(unusual)
    layers = [_Recorder() for _ in range(lm.n_layers)]
    ids = torch.tensor([list(row)], device=lm.device)
    arguments = {"input_ids": ids, lm.cache_argument: Cache(layers=layers), "use_cache": True}
    try:
        with torch.inference_mode():
            logits: Tensor = lm.model(**arguments).logits[0].float()
    except Exception as error:  # a model that asks its cache for more raises whatever comes of it
        return Structure(f"its forward call does not go with a cache of plain keys and values ({_short(error)})")
    foreign = _told([layer.stored for layer in layers])
    return Structure(foreign, logits if foreign is None else None)


def _told(stored: list[list[tuple[tuple[int, ...], tuple[int, ...]]]]) -> str | None:
    counts = Counter(len(one) for one in stored)
    if set(counts) == {0}:
        return "it stores no keys and values"
    if max(counts) > 1:
        return f"it runs layers more than once (one of them {max(counts)} times a token)"
    if 0 in counts:
        return f"only {counts[1]} of its {len(stored)} layers have keys and values of their own"
    shapes = {one[0] for one in stored}
    uneven = next((pair for pair in shapes if pair[0] != pair[1]), None)
    if uneven is not None:
        (heads, width), (value_heads, value_width) = uneven
        return (
            f"its keys ({heads} x {width}) and values ({value_heads} x {value_width}) have different shapes, as in "
            "multi-head latent attention"
        )
    if len(shapes) > 1:
        widths = ", ".join(f"{heads} x {width}" for (heads, width), _ in sorted(shapes))
        return f"its layers have different widths (KV heads x head_dim: {widths})"
    return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


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


def probe_sequences(vocabulary: int, seed: int = 1) -> Sequences:
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
