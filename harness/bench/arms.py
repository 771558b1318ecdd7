"""The ways of answering that are timed against one another.

Guarantees that every channel runs through the code that an evaluation runs, tokenising included, and that each
reading names the calls that its answer could not do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.bench.build import Pair
from harness.bench.floor import Cost, ModelCost, fusion_cost, model_cost
from harness.channels.base import Channel
from harness.channels.c2c import CacheToCache
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.decoding import generate, score
from harness.inference.types import CallStats, Context, Query
from harness.models import LM
from harness.prompts import continuation, encode
from harness.single_row import as_the_library_has_it
from harness.timing import Clock

Calls = dict[str, list[Cost]]
OUTSIDE = ("transformers", "lm_eval")


@dataclass(frozen=True)
class Task:
    """What is done with every batch.

    Attributes:
        new_tokens: tokens decoded for each question; 0 scores the options instead.
        options: how many are scored.
        option_tokens: tokens of each.
    """

    new_tokens: int
    options: int = 0
    option_tokens: int = 0

    @property
    def behind(self) -> int:
        """Tokens that the receiver reads behind the prompt to score all options."""
        return self.options * (self.option_tokens - 1)


@dataclass(frozen=True)
class Reading:
    """One timed batch.

    Attributes:
        total_s: from the questions to the answers.
        ttft_s: to the first token; None where nothing is decoded or nobody can say.
        stages_s: seconds by stage.
        calls: what the answer could not do without, by stage.
        payload_bytes: crossed, for one question.
        cache_bytes: of the receiver's cache at the end.
    """

    total_s: float
    ttft_s: float | None = None
    stages_s: dict[str, float] = field(default_factory=dict)
    calls: Calls = field(default_factory=dict)
    payload_bytes: int = 0
    cache_bytes: int = 0


Arm = Callable[[list[Query], Task], Reading]
# (queries, prompt tokens of each, bytes that cross) -> what an answer could not do without before its first token.
BeforeAnswer = Callable[[list[Query], int, int], Calls]


def make_arms(pair: Pair, names: Sequence[str], message_tokens: int) -> dict[str, Arm]:
    """Builds the named arms."""
    makers: dict[str, Callable[[], Arm]] = {
        "transformers": lambda: _transformers(pair.receiver),
        "lm_eval": lambda: _lm_eval(pair.receiver),
        "receiver": lambda: _single(Single(pair.receiver)),
        "sharer": lambda: _single(Single(pair.sharer, "sharer", role="sharer")),
        "t2t": lambda: _told(TextToText(pair.receiver, pair.sharer, TextVariant(max_new_tokens=message_tokens))),
        "c2c": lambda: _fused(pair.c2c()),
    }
    return {name: makers[name]() for name in names}


def _single(channel: Single) -> Arm:
    return _through(channel, lambda queries, prompt_tokens, payload: _prefill(channel, queries, prompt_tokens))


def _told(channel: TextToText) -> Arm:
    def before(queries: list[Query], prompt_tokens: int, payload: int) -> Calls:
        return _prefill(channel, queries, prompt_tokens) | _written(channel, queries)

    return _through(channel, before)


def _fused(channel: CacheToCache) -> Arm:
    return _through(channel, lambda queries, prompt_tokens, payload: _fused_prefill(channel, queries, payload))


def _through(channel: Channel, before: BeforeAnswer) -> Arm:
    def arm(queries: list[Query], task: Task) -> Reading:
        work = CallStats(clock=Clock(channel.answers.device))
        work.clock.mark("start")
        message = channel.send(queries, work)
        context = channel.receive(queries, message, work)
        cache_bytes = context.buffer.nbytes
        if task.new_tokens:
            with work.clock.stage(_decoding(channel)):
                generate(context, task.new_tokens, [()] * len(queries), work, exactly=task.new_tokens)
        else:
            with work.clock.stage("scoring"):
                _score(context, queries, work)
        work.clock.mark("end")
        return Reading(
            total_s=work.clock.since_start_s("end"),
            ttft_s=work.clock.since_start_s("first_token") if task.new_tokens else None,
            stages_s=work.clock.stages_s(),
            calls=before(queries, context.prompt_tokens[0], sum(message.payload_bytes))
            | _needed(channel, queries, context.prompt_tokens[0], task),
            payload_bytes=message.payload_bytes[0],
            cache_bytes=cache_bytes,
        )

    return arm


def _score(context: Context, queries: list[Query], work: CallStats) -> None:
    options = [[continuation(context.lm, q.receiver, choice) for choice in q.choices] for q in queries]
    score(context, options, work)


def _needed(channel: Channel, queries: list[Query], prompt_tokens: int, task: Task) -> Calls:
    """What an answer could not do without from its first token on."""
    cost, rows = _cost(channel.answers), len(queries)
    if task.new_tokens:
        return {_decoding(channel): cost.decode(rows, prompt_tokens, task.new_tokens - 1)}
    return {"scoring": [cost.call(rows, task.behind, prompt_tokens, logits=task.behind)] if task.behind else []}


def _prefill(channel: Channel, queries: list[Query], prompt_tokens: int) -> Calls:
    call = _cost(channel.answers).call(len(queries), prompt_tokens, logits=1)
    return {f"{_reader(channel)}_prefill": [call]}


def _reader(channel: Channel) -> str:
    return "sharer" if channel.name == "sharer" else "receiver"


def _decoding(channel: Channel) -> str:
    return f"{_reader(channel)}_decode"


def _fused_prefill(channel: CacheToCache, queries: list[Query], payload: int) -> Calls:
    link, rows = channel.links[0], len(queries)
    plan = channel.planner.plan(queries[0].receiver)
    receiver, sharer = _cost(channel.answers), _cost(link.sharer)
    spans = list(zip(plan.cuts, plan.cuts[1:], strict=False))
    silent = [receiver.call(rows, b - a, a, cache_only=True) for a, b in spans[:-1]]
    start, end = spans[-1]
    stretches = [fusion_cost(link.fuser.config, rows * (b - a), receiver.element_bytes) for a, b in plan.fused]
    return {
        "sharer_prefill": [sharer.call(rows, plan.fused_end, cache_only=True)],
        "message_transfer": [Cost(0.0, 2.0 * payload)],
        "fusion": stretches,
        "receiver_prefill": [*silent, receiver.call(rows, end - start, start, logits=1)],
    }


def _written(channel: TextToText, queries: list[Query]) -> Calls:
    cost, rows = _cost(channel.sharer), len(queries)
    asked = len(encode(channel.sharer, queries[0].receiver).ids)
    return {
        "sharer_prefill": [cost.call(rows, asked, logits=1)],
        "sharer_decode": cost.decode(rows, asked, channel.style.max_new_tokens - 1),
    }


def _cost(lm: LM) -> ModelCost:
    return model_cost(lm.config, lm.dtype.itemsize)


def _alone(lm: LM, answer: Callable[[list[Query], Task], Any]) -> Arm:
    """Times somebody else's way of letting the receiver answer; its floor is the receiver's own."""
    single = Single(lm)

    def arm(queries: list[Query], task: Task) -> Reading:
        clock = Clock(lm.device)
        with as_the_library_has_it(lm.model):
            clock.mark("start")
            answer(queries, task)
            clock.mark("end")
        prompt_tokens = len(encode(lm, queries[0].receiver).ids)
        calls = _prefill(single, queries, prompt_tokens) | _needed(single, queries, prompt_tokens, task)
        return Reading(clock.since_start_s("end"), calls=calls)

    return arm


def _transformers(lm: LM) -> Arm:
    def answer(queries: list[Query], task: Task) -> None:
        ids = torch.tensor([encode(lm, q.receiver).ids for q in queries], device=lm.device)
        exact = {"max_new_tokens": task.new_tokens, "min_new_tokens": task.new_tokens}
        written = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=lm.pad_id, **exact
        )
        lm.tokenizer.batch_decode(written[:, ids.shape[1] :].tolist())

    return _alone(lm, answer)


def _lm_eval(lm: LM) -> Arm:
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=1)

    def answer(queries: list[Query], _: Task) -> None:
        theirs.batch_size_per_gpu = len(queries)
        asked = [
            (("", ""), list(encode(lm, q.receiver).ids), list(continuation(lm, q.receiver, choice)))
            for q in queries
            for choice in q.choices
        ]
        theirs._loglikelihood_tokens(asked, disable_tqdm=True)

    return _alone(lm, answer)
