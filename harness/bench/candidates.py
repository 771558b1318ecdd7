"""The ways of answering that are timed against one another.

Guarantees that every channel runs through the code that an evaluation runs, tokenising included, and that each
reading names the calls that its answer could not do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.bench.roofline import Cost, call_cost, model_cost
from harness.bench.synthetic_pair import Pair
from harness.channels.engine import answers_itself
from harness.channels.interface import Channel, Group, LoadedModels
from harness.channels.registry import CHANNELS
from harness.channels.single import Single
from harness.channels.spec import channel_of, parse_channel
from harness.channels.t2t import TextToText, TextVariant
from harness.errors import UserError
from harness.inference.generate import generate, score
from harness.inference.types import Call, CallStats, Clock, Context, Query, logging_calls
from harness.models.chat import continuation_ids, encode
from harness.models.lm import LM, as_the_library_has_it
from harness.registry import resolve

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


def make_arms(pair: Pair, names: Sequence[str], message_tokens: int) -> dict[str, Arm]:
    """Builds the named arms: ways outside the harness, and channels as they are asked for in a run."""
    makers: dict[str, Callable[[], Arm]] = {
        "transformers": lambda: _transformers(pair.receiver),
        "lm_eval": lambda: _lm_eval(pair.receiver),
        "receiver": lambda: _through(Single(pair.receiver)),
        "sharer": lambda: _through(Single(pair.sharer, "sharer", role="sharer")),
        "t2t": lambda: _through(TextToText(pair.receiver, pair.sharer, TextVariant(max_new_tokens=message_tokens))),
        "c2c": lambda: _through(pair.c2c()),
    }
    return {name: makers[name]() if name in makers else _through(registered_channel(pair, name)) for name in names}


def registered_channel(pair: Pair, text: str) -> Channel:
    """Builds any registered channel for the pair, from ``name[:option=value]...``.

    Raises:
        UserError: there is no such channel, or it takes no part in a bench.
    """
    spec = parse_channel(text)
    if not spec.entry.build:
        raise UserError(f"Channel {text!r} runs no model of its own, so there is nothing to time; leave it out.")
    models = LoadedModels(pair.receiver, (), (pair.sharer,), (pair.fuser,))
    groups: list[Group] = resolve(spec.entry.build)(models, spec.options)
    channel = groups[0].channel
    assert not answers_itself(channel)
    return channel


def _through(channel: Channel) -> Arm:
    def arm(queries: list[Query], task: Task) -> Reading:
        clock = _StageClock(channel.answers.device)
        work = CallStats(clock=clock)
        with logging_calls(clock.note):
            clock.mark("start")
            message = channel.send(queries, work)
            context = channel.receive(queries, message, work)
            cache_bytes = context.buffer.nbytes
            if task.new_tokens:
                with clock.stage(_decoding(channel)):
                    generate(context, task.new_tokens, [()] * len(queries), work, exactly=task.new_tokens)
            else:
                with clock.stage("scoring"):
                    _score(context, queries, work)
            clock.mark("end")
        return Reading(
            total_s=clock.since_start_s("end"),
            ttft_s=clock.since_start_s("first_token") if task.new_tokens else None,
            stages_s=clock.stages_s(),
            calls=_floors(clock.calls, channel, sum(message.payload_bytes)),
            payload_bytes=message.payload_bytes[0],
            cache_bytes=cache_bytes,
        )

    return arm


def _score(context: Context, queries: list[Query], work: CallStats) -> None:
    options = [[continuation_ids(context.lm, q.receiver, choice) for choice in q.choices] for q in queries]
    score(context, options, work)


@dataclass
class _StageClock(Clock):
    """A clock that also notes which calls were made in which stage."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    _stage: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Clock.stage`."""
        outer, self._stage = self._stage, name
        self.calls.setdefault(name, [])
        with super().stage(name):
            yield
        self._stage = outer

    def note(self, call: Call) -> None:
        """Adds a call to the running stage."""
        self.calls.setdefault(self._stage, []).append(call)


def _floors(calls: Mapping[str, Sequence[Call]], channel: Channel, payload: int) -> Calls:
    """The costs of what a channel asked of its models, and of moving a message of tensors."""
    element = channel.answers.dtype.itemsize
    found = {stage: [call_cost(call, element) for call in made] for stage, made in calls.items()}
    if "message_transfer" in found and CHANNELS.get(channel_of(channel.name)).message == "tensors":
        found["message_transfer"].append(Cost(0.0, 2.0 * payload))
    return found


def _decoding(channel: Channel) -> str:
    return f"{getattr(channel, 'role', 'receiver')}_decode"


def _alone(lm: LM, answer: Callable[[list[Query], Task], Any]) -> Arm:
    """Times somebody else's way of letting the receiver answer; its floor is the receiver's own."""

    def arm(queries: list[Query], task: Task) -> Reading:
        clock = Clock(lm.device)
        with as_the_library_has_it(lm.model):
            clock.mark("start")
            answer(queries, task)
            clock.mark("end")
        prompt_tokens = len(encode(lm, queries[0].receiver).ids)
        return Reading(clock.since_start_s("end"), calls=_receiver_calls(lm, len(queries), prompt_tokens, task))

    return arm


def _receiver_calls(lm: LM, rows: int, prompt_tokens: int, task: Task) -> Calls:
    cost = model_cost(lm.config, lm.dtype.itemsize)
    prefill = {"receiver_prefill": [cost.call(rows, prompt_tokens, logits=1)]}
    if task.new_tokens:
        return prefill | {"receiver_decode": cost.decode(rows, prompt_tokens, task.new_tokens - 1)}
    behind = [cost.call(rows, task.behind, prompt_tokens, logits=task.behind)] if task.behind else []
    return prefill | {"scoring": behind}


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
            (("", ""), list(encode(lm, q.receiver).ids), list(continuation_ids(lm, q.receiver, choice)))
            for q in queries
            for choice in q.choices
        ]
        theirs._loglikelihood_tokens(asked, disable_tqdm=True)

    return _alone(lm, answer)
