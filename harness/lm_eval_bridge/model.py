"""lm-eval's model interface over any channel, registered under the channel's name; `single` is the receiver alone.

Guarantees that all options of a question share one prefill, that every model of a pair reads the conversation through
its own chat template, and that a model alone reads the tokens that lm-eval's `hf` reads. Only `loglikelihood`,
`generate_until` and `loglikelihood_rolling` are overridden, because only they see the document, which a text sharer
needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lm_eval.models  # noqa: F401 - get_model("hf") must still find lm-eval's own models after this one is imported
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from harness.benchmarks import registry
from harness.benchmarks.requests import chat_text, decoding_request, one_prompt_each, rolling_requests, scoring_request
from harness.benchmarks.views import Views, metadata_of, views_of
from harness.channels.engine import Arm, answers_itself, run
from harness.channels.registry import ALIASES, CHANNELS
from harness.channels.spec import parse_channel
from harness.errors import RunError, UserError
from harness.evaluation.setup import Cast, load_cast
from harness.inference.batching import Budget
from harness.inference.types import Answer, CallStats, Fault, Request
from harness.lm_eval_bridge.arguments import Model, Setup, join_arguments, model_of, setup_of
from harness.lm_eval_bridge.record import (
    cache_identity,
    check_told_apart,
    describe_models,
    keep_apart,
    latency_of,
    refuse_views,
    running_task,
)

_logger = logging.getLogger(__name__)

_CANONICAL = {"id", "labels", "key"}  # fields of every document of our own tasks


class ChannelLM(LM):
    """A channel as an lm-eval model.

    Attributes:
        channel: what answers.
        setup: the model's arguments.
        cast: everything that was loaded.
        work: counts of everything done so far.
        reading: how prompts become tokens.
        alone: whether one model answers, without a message.
        hears_text: whether the message is text.
        asked: task -> its requests, kept where some of them are timed afterwards.
    """

    def __init__(self, setup: Setup, cast: Cast) -> None:
        super().__init__()
        channel = cast.groups[0].channel
        assert not answers_itself(channel)
        self.channel, self.setup, self.cast, self.work = channel, setup, cast, CallStats()
        self.budget, self.reading = Budget(setup.batch_size, setup.config.max_batch_tokens), setup.reading
        self.asked: dict[str, list[Request]] = {}
        entry = parse_channel(setup.config.channels[0]).entry
        self.alone, self.hears_text = "sharer" not in entry.needs, entry.message == "text"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Scores continuations; those of one context and document are read from one prefill."""
        self._refuse_unconditional(requests)
        grouped: dict[tuple[Any, ...], list[int]] = {}
        for number, instance in enumerate(requests):
            key = (instance.task_name, instance.doc_id, str(instance.args[0]))
            grouped.setdefault(key, []).append(number)
        asked, places = [], []
        for group in grouped.values():
            first, pairs = requests[group[0]], [requests[i].args for i in group]
            whole = scoring_request(pairs, first.doc or {}, self._metadata(first), self.reading, views_in(first))
            parts = one_prompt_each(self.channel.answers, whole)
            asked += parts
            places += [[i] for i in group] if len(parts) > 1 else [group]
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)

        def keep(index: int, answer: Answer) -> None:
            for number, scored in zip(places[index], answer.scored, strict=True):
                scores[number] = (scored.loglikelihood, scored.greedy)
                self.cache_hook.add_partial("loglikelihood", requests[number].args, scores[number])

        self._remember([requests[place[0]] for place in places], asked)
        self._answer(asked, keep)
        return scores

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Decodes greedily."""
        asked = [
            decoding_request(r.args[0], r.args[1], r.doc or {}, self._metadata(r), self.reading, views_in(r))
            for r in requests
        ]
        end = self.channel.answers.tokenizer.eos_token
        if end:
            # lm-eval also cuts where a model spells the end token out in other tokens.
            asked = [replace(request, stops=(*request.stops, end)) for request in asked]
        texts = [""] * len(requests)

        def keep(index: int, answer: Answer) -> None:
            texts[index] = answer.text or ""
            self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])

        self._remember(requests, asked)
        self._answer(asked, keep)
        return texts

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Loglikelihood of whole texts, for single models, in windows as long as the context."""
        if not self.alone:
            raise UserError(
                f"Rolling loglikelihoods are defined for single models, not for {self.channel.name}: a message answers "
                "a prompt, and a rolling text has none. Use --model single."
            )
        windows = [rolling_requests(self.channel.answers, r.args[0], self.reading) for r in requests]
        text_of = [number for number, parts in enumerate(windows) for _ in parts]
        totals, left = [0.0] * len(requests), [len(parts) for parts in windows]

        def keep(index: int, answer: Answer) -> None:
            number = text_of[index]
            totals[number] += answer.scored[0].loglikelihood
            left[number] -= 1
            if not left[number]:
                self.cache_hook.add_partial("loglikelihood_rolling", requests[number].args, totals[number])

        self._answer([window for parts in windows for window in parts], keep)
        return totals

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Carries the conversation to `loglikelihood` and `generate_until`, where each model renders its own."""
        return chat_text(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The answering model's template, for lm-eval's records."""
        return self.channel.answers.tokenizer.chat_template or ""

    @property
    def tokenizer_name(self) -> str:
        """Names the answering model in lm-eval's request cache."""
        return self.channel.answers.reference.text.replace("/", "__")

    @property
    def tokenizer(self) -> Any:
        """The answering model's tokenizer, whose special tokens lm-eval records."""
        return self.channel.answers.tokenizer

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    @property
    def max_length(self) -> int:
        """Tokens that the answering model's context holds."""
        return self.channel.answers.max_length

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """Models and fusers with digests of their files, see `describe_models`."""
        return describe_models(self.setup.config, self.cast, self.channel, self.setup.reading)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Gives this model's answers keys of their own in lm-eval's ``--use_cache``."""
        if cache_hook.dbdict is not None:
            keep_apart(cache_hook.dbdict, cache_identity(self.setup, self.cast, self.description))
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results file under ``config``; with latencies where they are asked for."""
        if not self.setup.latency_samples:
            return dict(self.description)
        if not self.asked:
            _logger.warning("Every answer came from the cache, so nothing was timed; leave --use_cache out for that.")
        return {
            **self.description,
            "latency": latency_of(self.channel, self.asked, self.setup.latency_samples, self.setup.latency_warm_up),
        }

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: Any = None) -> Any:
        """Builds the model from ``model_args`` and the flags beside them."""
        return cls(**join_arguments(arg_dict, additional_config or {}))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> Any:
        """Builds the model from ``model_args`` as text and the flags beside them."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _refuse_unconditional(self, requests: Sequence[Any]) -> None:
        empty = next((r.task_name for r in requests if not r.args[0]), None)
        if empty is not None and not self.alone:
            raise UserError(
                f"Task {empty!r} has requests without a prompt, as acc_mutual_info and some perplexities need them; "
                f"{self.channel.name} answers a prompt with the help of a message, and there is none to send. Use "
                "--model single, or another metric."
            )

    def _metadata(self, instance: Any) -> Mapping[str, Any]:
        """How a task wants its sharer to be asked; only a text sharer is asked anything of its own."""
        task = running_task(instance.task_name)
        if task is not None:
            return metadata_of(task)
        ours = self.hears_text and (instance.doc or {}).keys() >= _CANONICAL
        return _task_metadata(instance.task_name) if ours else {}

    def _answer(self, asked: Sequence[Request], keep: Callable[[int, Answer], None]) -> None:
        """Answers requests batch by batch; what is answered is kept at once, so that it outlives an error behind it."""
        faults: list[Fault] = []
        cut = self.work.cut_prompts
        for outcome in run(self.channel, [Arm(self.channel)], asked, self.budget, [self.work]):
            for index, answer in zip(outcome.indices, outcome.answers[0], strict=True):
                if answer.fault is None:
                    keep(index, answer)
                else:
                    faults.append(answer.fault)
        if cut := self.work.cut_prompts - cut:
            _logger.warning(
                "%d of %d prompts are too long for their model's context and were cut on the left, as lm-eval's hf "
                "cuts them; some of what they ask is lost.",
                cut,
                len(asked),
            )
        if faults:
            # lm-eval has no notion of an error; an invented answer would be scored.
            raise RunError(f"{len(faults)} of {len(asked)} requests failed; the first said: {faults[0].message}")

    def _remember(self, instances: Sequence[Any], asked: Sequence[Request]) -> None:
        if self.cache_hook.dbdict is not None:
            refuse_views(instances, asked)
            if self.hears_text:
                check_told_apart(instances, asked)
        if self.setup.latency_samples:
            for instance, request in zip(instances, asked, strict=True):
                self.asked.setdefault(str(instance.task_name), []).append(request)


def channel_lm(model: Model, **arguments: Any) -> ChannelLM:
    """Builds a model from lm-eval's ``--model_args``.

    Raises:
        UserError: see `setup_of` and `load_cast`.
    """
    setup = setup_of(model, arguments)
    cast = load_cast(setup.config)
    if setup.reading.add_bos is not None:
        for lm in (cast.receiver, *cast.sharers):
            if lm is not None:
                lm.tokenizer.add_bos_token = (
                    setup.reading.add_bos
                )  # as lm-eval's hf: also where the tokenizer adds none
    return ChannelLM(setup, cast)


def views_in(instance: Any) -> Views | None:
    """Who sees what of a request's row, where the running evaluation's task says so."""
    task = running_task(instance.task_name)
    return None if task is None else views_of(task)


@functools.cache
def _task_metadata(name: str) -> Mapping[str, Any]:
    return registry.task_metadata(name)


def model_class(name: str) -> type[ChannelLM]:
    """Returns the class of a channel's models behind lm-eval; what the channel takes is looked up when one is built."""

    def __init__(self: ChannelLM, **arguments: Any) -> None:  # noqa: N807 - of the class below
        self.__dict__.update(vars(channel_lm(model_of(name), **arguments)))

    about = f"Channel {name} as a model: ``--model {name} --model_args receiver=...``."
    body = {"__init__": __init__, "__doc__": about, "__module__": __name__}
    return type(_CLASS_NAMES.get(name, f"{name.title().replace('_', '')}LM"), (ChannelLM,), body)


def register_models() -> None:
    """Registers every channel that is known by now as a model of lm-eval; a second call adds what is new."""
    composed = {entry.name for entry in CHANNELS.loaded() if not entry.build}
    for name in (*ALIASES, *CHANNELS.names()):
        if name not in MODEL_CLASSES and name not in composed:
            MODEL_CLASSES[name] = model_class(name)
            try:
                register_model(name)(MODEL_CLASSES[name])
            except ValueError:
                _logger.warning("lm-eval has a model %r of its own, so the channel of that name is none there.", name)


_CLASS_NAMES = {"t2t": "TextLM", "c2c": "FusedLM"}

MODEL_CLASSES: dict[str, type[ChannelLM]] = {}

register_models()

SingleLM, TextLM, FusedLM = (MODEL_CLASSES[name] for name in ("single", "t2t", "c2c"))

ReceiverLM, SharerLM, TunedLM, EnsembleLM = (MODEL_CLASSES[n] for n in ("receiver", "sharer", "tuned", "ensemble"))
