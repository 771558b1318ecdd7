"""Answers from a prefilled batch: greedy decoding and loglikelihoods, the same code for every channel.

Options are scored, labels named and texts decoded from a context. Guarantees that options are scored from one prefill
however many tokens they have, that no forward call runs whose result is not read, and that numbers which are not finite
are raised as an error and never compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.inference.forward import Columns, extend, takes_masks
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import Answer, CallStats, Context, Request, Scored
from harness.models.lm import LM

# Logits of option tokens that may be held at once.
_LOGIT_BYTES = 128 * 2**20


class NonFiniteLogits(ArithmeticError):
    """A model produced NaN or infinite logits; says in which layer they first appeared."""


@dataclass(frozen=True)
class Generation:
    """A decoded answer.

    Attributes:
        text: without special tokens and without the stop string.
        tokens: every token that was decoded, the stopping one included.
    """

    text: str
    tokens: tuple[int, ...]


def entropies(logits: Tensor) -> list[float]:
    """Entropy in nats of each row's next-token distribution, `[rows, vocabulary]`."""
    return [float(e) for e in torch.distributions.Categorical(logits=logits.float()).entropy().tolist()]


def first_non_finite(buffer: KVBuffer) -> str:
    """Says in which layer's cache a number that is not finite first appears."""
    visible = buffer.real[:, : buffer.length]
    for layer in range(buffer.n_layers):
        for kind, name in enumerate("KV"):
            entry = buffer.entry(kind, layer)
            if entry is not None and not bool((entry.isfinite().all(-1).all(1) | ~visible).all()):
                return f"they first appear in the {name} of layer {layer}"
    return "they first appear after the last layer's cache"


@dataclass
class _Row:
    """A sequence that is being written; its newest token is not in the cache yet.

    Attributes:
        starts: position of its first token, for the answering model and, if there is one, its companion.
    """

    starts: tuple[int, ...]
    stops: tuple[str, ...]
    budget: int
    tokens: list[int] = field(default_factory=list)
    done: bool = False


def generate(
    context: Context,
    max_new_tokens: int | Sequence[int],
    stops: Sequence[tuple[str, ...]],
    work: CallStats,
    exactly: int | None = None,
) -> list[Generation]:
    """Decodes greedily until a stop token, a stop string or the budget.

    Args:
        context: the batch; its cache is consumed.
        max_new_tokens: budget, one for all rows or one a row.
        stops: stop strings, a tuple a row; they are looked for with special tokens written out, as lm-eval does.
        work: is charged; its clock gets the mark ``first_token``.
        exactly: decode this many tokens whatever comes, for timing at equal length.
    """
    parts = (context,) if context.companion is None else (context, context.companion)
    starts = zip(*(part.next_positions for part in parts), strict=True)
    budgets = [max_new_tokens] * len(stops) if isinstance(max_new_tokens, int) else max_new_tokens
    rows = [_Row(*row) for row in zip(starts, stops, budgets, strict=True)]
    held, logits = rows, combined_logits(context, [part.logits for part in parts])
    while True:
        for row, token in zip(held, _choose(context, logits, work), strict=True):
            if not row.done:
                row.tokens.append(token)
                row.done = _ends(row, context.lm) if exactly is None else len(row.tokens) == exactly
        if max(len(row.tokens) for row in rows) == 1:
            work.clock.mark("first_token")
        if all(row.done for row in held):
            break
        held = _let_finished_leave(parts, held)
        logits = combined_logits(context, [_step(part, held, number, work) for number, part in enumerate(parts)])
    work.counters.decoded_tokens += sum(len(r.tokens) for r in rows)
    return [Generation(_text(context.lm, r), tuple(r.tokens)) for r in rows]


def _choose(context: Context, logits: Tensor, work: CallStats) -> list[int]:
    # One transfer carries the tokens and the proof that they were chosen from finite numbers.
    best, token = logits.max(dim=-1)
    sound = best.isfinite() & ~logits.isnan().any(-1)
    work.counters.host_syncs += 1
    told: list[int] = torch.where(sound, token, -1).tolist()
    if -1 in told:
        raise NonFiniteLogits(f"The logits are not finite; {first_non_finite(context.buffer)}.")
    return told


def _ends(row: _Row, lm: LM) -> bool:
    if row.tokens[-1] in lm.stop_ids or len(row.tokens) >= row.budget:
        return True
    if not row.stops:
        return False
    # A token holds at least a byte; the tail is a little longer, so that a character cut at its start does no harm.
    tail = row.tokens[-(max(len(stop.encode()) for stop in row.stops) + 8) :]
    text = lm.tokenizer.decode(tail, skip_special_tokens=False)
    return any(stop in text for stop in row.stops)


def combined_logits(context: Context, logits: Sequence[Tensor]) -> Tensor:
    """Logits of one model as they are, or of two models as the context combines their probabilities."""
    if context.combine is None:
        return logits[0]
    ours, theirs = (part.float().log_softmax(-1) for part in logits)
    width = min(ours.shape[-1], theirs.shape[-1])  # one vocabulary, but its table may be padded
    return context.combine(ours[..., :width], theirs[..., :width].to(ours.device))


def _let_finished_leave(parts: Sequence[Context], held: list[_Row]) -> list[_Row]:
    live = [i for i, row in enumerate(held) if not row.done]
    if 2 * len(live) > len(held):
        return held  # compacting copies the cache; a few idle rows cost less
    for part in parts:
        part.keep_rows(torch.tensor(live, device=part.buffer.device))
    return [held[i] for i in live]


def _step(context: Context, held: list[_Row], model: int, work: CallStats) -> Tensor:
    device = context.lm.device
    ids = torch.tensor([[row.tokens[-1]] for row in held], device=device)
    positions = torch.tensor([[row.starts[model] + len(row.tokens) - 1] for row in held], device=device)
    real = torch.ones_like(ids, dtype=torch.bool)
    columns = Columns(ids, positions, real, dense=True, tokens=len(held))
    logits = extend(context.lm, context.buffer, columns, work.counters, 1, context.layer_mask)
    assert logits is not None
    return logits[:, -1]


def _text(lm: LM, row: _Row) -> str:
    return cut_at_stops(str(lm.tokenizer.decode(row.tokens, skip_special_tokens=True)), row.stops)


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """Returns what stands before the stop strings, one cut after the other as in lm-eval; an empty one cuts nothing."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text


def score(context: Context, options: Sequence[Sequence[tuple[int, ...]]], work: CallStats) -> list[list[Scored]]:
    """Scores every row's options from the one prefill that the context holds.

    Options of one token need no forward call at all; longer ones are read side by side as branches of the same
    past, so that the cache is neither copied nor read twice.

    Args:
        context: the batch; its cache is the same afterwards.
        options: token ids, `rows x options x tokens`.
        work: is charged.
    """
    first = context.logits.float().log_softmax(-1)  # [rows, vocabulary]
    best = first.argmax(-1)
    found = [[_Tally(first[r, o[0]], best[r] == o[0]) for o in row] for r, row in enumerate(options)]
    most = max(map(len, options))
    for start, stop in _groups(context, options, most):
        _score_group(context, options, found, slice(start, stop), work)
    work.counters.host_syncs += 1
    flat = torch.stack([torch.stack((t.total, t.greedy.float())) for row in found for t in row]).tolist()
    return _finite(context, [len(row) for row in options], flat)


@dataclass
class _Tally:
    total: Tensor
    greedy: Tensor


def _finite(context: Context, sizes: list[int], flat: list[list[float]]) -> list[list[Scored]]:
    if not all(math.isfinite(total) for total, _ in flat):
        raise NonFiniteLogits(f"A loglikelihood is not finite; {first_non_finite(context.buffer)}.")
    told = iter(flat)
    return [[Scored(total, greedy == 1.0) for total, greedy in (next(told) for _ in range(n))] for n in sizes]


def _groups(context: Context, options: Sequence[Sequence[tuple[int, ...]]], most: int) -> list[tuple[int, int]]:
    """Ranges of option numbers that are read in one forward call each, within the memory for logits."""
    longest = max(len(o) for row in options for o in row)
    if longest == 1:
        return []
    per_option = len(options) * (longest - 1) * context.logits.shape[-1] * 4
    fit = max(1, _LOGIT_BYTES // per_option) if takes_masks(context.lm) else 1
    return [(i, i + fit) for i in range(0, most, fit)]


def _score_group(
    context: Context,
    options: Sequence[Sequence[tuple[int, ...]]],
    found: list[list[_Tally]],
    group: slice,
    work: CallStats,
) -> None:
    chosen = [row[group] for row in options]
    columns = _branches(context, chosen)
    if columns is None:
        return
    buffer = context.buffer
    length, dense = buffer.length, buffer.dense
    logits = extend(context.lm, buffer, columns, work.counters, columns.ids.shape[1], context.layer_mask)
    buffer.crop(length, dense)
    work.counters.prompt_tokens += columns.tokens
    assert logits is not None
    for r, row in enumerate(chosen):
        column = 0
        for option, tally in zip(row, found[r][group], strict=True):
            n = len(option) - 1
            _add(tally, logits[r, column : column + n], option[1:])
            column += n


def _add(tally: _Tally, logits: Tensor, targets: tuple[int, ...]) -> None:
    if not targets:
        return
    wanted = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    picked = logits.gather(-1, wanted[:, None])[:, 0]
    tally.total = tally.total + (picked - logits.logsumexp(-1)).sum()
    tally.greedy = tally.greedy & (logits.argmax(-1) == wanted).all()


def _branches(context: Context, chosen: Sequence[Sequence[tuple[int, ...]]]) -> Columns | None:
    """Lays all but the last token of each option behind the past, an option a branch; rows are padded on the right."""
    rows = [
        [(token, start + j, k + 1) for k, option in enumerate(row) for j, token in enumerate(option[:-1])]
        for row, start in zip(chosen, context.next_positions, strict=True)
    ]
    width = max(map(len, rows))
    if width == 0:
        return None
    pad = (context.lm.pad_id, 0, 0)
    filled = torch.tensor([r + [pad] * (width - len(r)) for r in rows], device=context.lm.device)  # [rows, width, 3]
    real = filled[..., 2] > 0
    tokens = sum(map(len, rows))
    dense = tokens == width * len(rows)
    single = all(len(row) <= 1 for row in chosen)
    branch = None if single else filled[..., 2]
    return Columns(filled[..., 0], filled[..., 1], real, dense, tokens, branch)


# What an ensemble's sharer sends is a float32 probability for each option or word.
_PROBABILITY_BYTES = 4


def read_answers(context: Context, requests: list[Request], work: CallStats, stage: str) -> list[Answer]:
    """Scores or decodes, whichever the requests want.

    Args:
        context: the batch; its cache is used up.
        requests: of one kind, a row each.
        work: is charged.
        stage: name under which scoring and decoding are timed.

    Returns:
        One answer a request. `payload_bytes` are those of a companion's probabilities; where the context has no
        companion, the caller knows what crossed.
    """
    if requests[0].options:
        answers = _scored(context, work, stage)
        work.clock.mark("first_token")
    elif all(context.options):
        answers = _named(_scored(context, work, stage), requests, work)
    else:
        answers = _decoded(context, requests, work, stage)
    return [replace(a, prompt_tokens=n) for a, n in zip(answers, context.prompt_tokens, strict=True)]


def _scored(context: Context, work: CallStats, stage: str) -> list[Answer]:
    """Answers with the loglikelihood of every option; two models' are combined over the options."""
    with work.clock.stage(stage):
        rows = score(context, context.options, work)
        if context.companion is not None and context.combine is not None:
            others = score(context.companion, context.companion.options, work)
            rows = [_combined_row(context.combine, *pair) for pair in zip(rows, others, strict=True)]
    crossing = [len(row) * _PROBABILITY_BYTES for row in rows]
    return [
        Answer(scored=tuple(row), entropy=_option_entropy(row), payload_bytes=size)
        for row, size in zip(rows, crossing, strict=True)
    ]


def _combined_row(
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ours: Sequence[Scored], theirs: Sequence[Scored]
) -> list[Scored]:
    both = [torch.tensor([s.loglikelihood for s in row]).log_softmax(-1) for row in (ours, theirs)]
    return [Scored(float(value), greedy=False) for value in combine(both[0], both[1])]


def _named(scored: list[Answer], requests: list[Request], work: CallStats) -> list[Answer]:
    """Answers option questions that ask for text with the label of the highest probability."""
    for mark in ("first_token", "answered"):
        work.clock.mark(mark)
    best = [max(range(len(a.scored)), key=lambda i: a.scored[i].loglikelihood) for a in scored]
    return [replace(a, scored=(), text=r.query.labels[i]) for a, r, i in zip(scored, requests, best, strict=True)]


def _decoded(context: Context, requests: list[Request], work: CallStats, stage: str) -> list[Answer]:
    holds, stops = context.lm.max_length, [r.stops for r in requests]
    budgets = [r.new_tokens(n, holds) for r, n in zip(requests, context.prompt_tokens, strict=True)]
    with work.clock.stage(stage):
        written = generate(context, budgets, stops, work, requests[0].exactly)
    work.clock.mark("answered")
    parts = [context.logits] if context.companion is None else [context.logits, context.companion.logits]
    logits = combined_logits(context, parts)
    doubt = entropies(logits)  # only now known to be finite
    per_token = logits.shape[-1] * _PROBABILITY_BYTES
    return [
        Answer(text=w.text, tokens=w.tokens, entropy=e, payload_bytes=len(w.tokens) * per_token)
        for w, e in zip(written, doubt, strict=True)
    ]


def _option_entropy(scored: Sequence[Scored]) -> float:
    return entropies(torch.tensor([[s.loglikelihood for s in scored]]))[0]
