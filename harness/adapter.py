"""lm-eval's model interface over any channel, registered as `single`, `t2t` and `c2c`.

Guarantees that all options of a question share one prefill, that every model of a pair reads the conversation through
its own chat template, and that a model alone reads the tokens that lm-eval's `hf` reads. Only `loglikelihood`,
`generate_until` and `loglikelihood_rolling` are overridden, because only they see the document, which a text sharer
needs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lm_eval.models  # noqa: F401 - get_model("hf") must still find lm-eval's own models after this one is imported
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from harness.asking import chat_text, decoding_request, one_prompt_each, rolling_requests, scoring_request
from harness.assembly import assemble
from harness.channels.base import Channel, Work, answers_itself
from harness.channels.single import Single
from harness.channels.t2t import TextToText
from harness.config import RunConfig, build
from harness.config.served import OWN
from harness.engine import Answer, Arm, Budget, Request, run
from harness.errors import RunError, UserError
from harness.prompts import Reading
from tasks import index as task_index

_logger = logging.getLogger(__name__)
AS_LM_EVAL = Reading(as_lm_eval=True)
_RENAMED = {"sharer": "sharers", "fuser": "fusers", "pretrained": "receiver", "path": "receiver"}
_DROPPED = ("max_batch_size",)
# What a run is told and a model behind lm-eval is not: that is lm-eval's own business.
_LM_EVALS = frozenset(
    {
        *("channels", "controls", "tasks", "datasets_dir", "limit", "chat", "max_new_tokens", "gen_kwargs", "seed"),
        *("tuned", "self_fuser", "calibration_samples", "max_error_rate", "output_path", "resume"),
        *("batch_size", "latency_samples", "latency_warm_up", "latency_equal_tokens", "leaderboards_dir", "progress"),
        *("log_samples", "receiver_args", "sharer_args"),
    }
)


class ChannelLM(LM):
    """A channel as an lm-eval model.

    Attributes:
        channel: what answers.
        work: counts of everything done so far.
        reading: how prompts become tokens.
    """

    def __init__(
        self,
        channel: Channel,
        batch_size: int = 8,
        max_batch_tokens: int | None = None,
        reading: Reading = AS_LM_EVAL,
    ) -> None:
        super().__init__()
        self.channel, self.work = channel, Work()
        self.budget, self.reading = Budget(batch_size, max_batch_tokens), reading

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
            whole = scoring_request(pairs, first.doc or {}, self._metadata(first), self.reading)
            parts = one_prompt_each(self.channel.answers, whole)
            asked += parts
            places += [[i] for i in group] if len(parts) > 1 else [group]
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for place, answer in zip(places, self._answers(asked), strict=True):
            for number, scored in zip(place, answer.scored, strict=True):
                scores[number] = (scored.loglikelihood, scored.greedy)
        return scores

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Decodes greedily."""
        asked = [decoding_request(r.args[0], r.args[1], r.doc or {}, self._metadata(r), self.reading) for r in requests]
        end = self.channel.answers.tokenizer.eos_token
        if end:
            # lm-eval also cuts where a model spells the end token out in other tokens.
            asked = [replace(request, stops=(*request.stops, end)) for request in asked]
        return [answer.text or "" for answer in self._answers(asked)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Loglikelihood of whole texts, for single models, in windows as long as the context."""
        if not isinstance(self.channel, Single):
            raise UserError(
                f"Rolling loglikelihoods are defined for single models, not for {self.channel.name}: a message answers "
                "a prompt, and a rolling text has none. Use --model single."
            )
        windows = [rolling_requests(self.channel.answers, r.args[0], self.reading) for r in requests]
        answers = iter(self._answers([window for text in windows for window in text]))
        return [sum(next(answers).scored[0].loglikelihood for _ in text) for text in windows]

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

    def _refuse_unconditional(self, requests: Sequence[Any]) -> None:
        empty = next((r.task_name for r in requests if not r.args[0]), None)
        if empty is not None and not isinstance(self.channel, Single):
            raise UserError(
                f"Task {empty!r} has requests without a prompt, as acc_mutual_info and some perplexities need them; "
                f"{self.channel.name} answers a prompt with the help of a message, and there is none to send. Use "
                "--model single, or another metric."
            )

    def _metadata(self, instance: Any) -> Mapping[str, Any]:
        """How a task wants its sharer to be asked; only a text sharer is asked anything of its own."""
        return task_index.metadata(instance.task_name) if isinstance(self.channel, TextToText) else {}

    def _answers(self, asked: Sequence[Request]) -> list[Answer]:
        answers, cut = [Answer()] * len(asked), self.work.cut_prompts
        for outcome in run(self.channel, [Arm(self.channel)], asked, self.budget, [self.work]):
            for index, answer in zip(outcome.indices, outcome.answers[0], strict=True):
                answers[index] = answer
        if cut := self.work.cut_prompts - cut:
            _logger.warning(
                "%d of %d prompts are too long for their model's context and were cut on the left, as lm-eval's hf "
                "cuts them; some of what they ask is lost.",
                cut,
                len(asked),
            )
        failed = [a.fault for a in answers if a.fault is not None]
        if failed:
            # lm-eval has no notion of an error; an invented answer would be scored.
            raise RunError(f"{len(failed)} of {len(asked)} requests failed; the first said: {failed[0].message}")
        return answers


def channel_lm(name: str, batch_size: Any = 8, device: str | None = None, **arguments: Any) -> ChannelLM:
    """Builds the model from lm-eval's ``--model_args``."""
    config = _config(name, {**arguments, **({"device": device} if device else {})})
    if config.device.startswith("cuda"):
        import torch

        # lm-eval asks for cuda:0 unless told otherwise, also where there is none.
        config = config if torch.cuda.is_available() else config.model_copy(update={"device": "cpu"})
    cast = assemble(config)
    if str(batch_size).startswith("auto"):
        raise UserError("batch_size 'auto' is not supported; give a number.")
    channel = cast.groups[0].channel
    assert not answers_itself(channel)
    asked = config.enable_thinking if "enable_thinking" in arguments else None
    return ChannelLM(channel, int(batch_size), config.max_batch_tokens, replace(AS_LM_EVAL, thinking=asked))


def _config(name: str, arguments: Mapping[str, Any]) -> RunConfig:
    values: dict[str, Any] = {"channels": [name], "controls": [], "tasks": ["given-by-lm-eval"]}
    for key, value in arguments.items():
        if key in _DROPPED or value is None:
            continue
        renamed = _RENAMED.get(key, key)
        if renamed in _LM_EVALS:
            raise UserError(f"model_args has {key}, which is no matter of the model; use lm-eval's own flags for it.")
        values[renamed] = str(value).split(";") if renamed in ("sharers", "fusers") else value
    if values.get("backend", OWN) != OWN:
        raise UserError(f"lm-eval runs its engine {values['backend']!r} itself; give it as --model.")
    if "receiver" not in values:
        raise UserError("model_args needs receiver=...; several sharers or fusers are joined by ';'.")
    return build(values, "model_args")


@register_model("single")
class SingleLM(ChannelLM):
    """One model alone: ``--model single --model_args receiver=...``."""

    def __init__(self, **arguments: Any) -> None:
        built = channel_lm("receiver", **arguments)
        super().__init__(built.channel, built.budget.batch_size, built.budget.max_batch_tokens, built.reading)


@register_model("t2t")
class TextLM(ChannelLM):
    """A sharer that writes: ``--model t2t --model_args receiver=...,sharer=...``."""

    def __init__(self, **arguments: Any) -> None:
        built = channel_lm("t2t", **arguments)
        super().__init__(built.channel, built.budget.batch_size, built.budget.max_batch_tokens, built.reading)


@register_model("c2c")
class FusedLM(ChannelLM):
    """A sharer whose cache is fused: ``--model c2c --model_args receiver=...,sharer=...,fuser=...``."""

    def __init__(self, **arguments: Any) -> None:
        built = channel_lm("c2c", **arguments)
        super().__init__(built.channel, built.budget.batch_size, built.budget.max_batch_tokens, built.reading)
