"""What a model behind lm-eval reports: its name, its record, its cache identity and its latency.

Two models that may answer differently never share a key of lm-eval's ``--use_cache``: weights, fusers, templates and
every setting that changes an answer are in it. Latency is measured under the conditions, and with the clock and draw,
of the harness's own latency pass: some requests of each task are answered again, alone and after warm-up, because
lm-eval hands requests over in batches, from which no latency can be read.

lm-eval hands a model rows and no task, so what a task's `metadata` says of its prompts is read off the running
evaluation: the tasks are local variables of `lm_eval.evaluator.evaluate`, which is always below the model's methods on
this thread's stack.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness import __version__
from harness.channels.interface import Channel
from harness.config import RunConfig, identity
from harness.errors import UserError
from harness.evaluation.fingerprint import fusers_of, models_of
from harness.evaluation.latency_pass import ROUNDS, draw, timed_alone, timing_fields
from harness.evaluation.prompt_record import prompt_settings as prompts_described
from harness.evaluation.setup import Cast
from harness.inference.types import Query, Request
from harness.lm_eval_bridge.arguments import SPELLINGS, Setup
from harness.models.chat import Reading
from harness.records.schema import Timing
from harness.results.summary import latency_fields

_EVALUATOR = "lm_eval.evaluator"


def running_task(name: str | None) -> Any | None:
    """Returns the task of this name of the evaluation that is running; None outside of one."""
    frame = sys._getframe()
    while frame is not None and name is not None:
        if frame.f_globals.get("__name__") == _EVALUATOR:
            for value in frame.f_locals.values():
                task = value.get(name) if isinstance(value, Mapping) else None
                if hasattr(task, "doc_to_text") and hasattr(task, "config"):
                    return task
        frame = frame.f_back  # type: ignore[assignment]
    return None


_LONGEST_PART = 60


def model_name(receiver: str, sharers: Sequence[str] = (), fusers: Sequence[str] = ()) -> str:
    """A name for folders and tables: the reference itself for a model alone, as lm-eval has it for `hf`.

    Models of a pair are named by the last part of their references, with a digest of the whole that keeps pairs apart.
    """
    if not sharers:
        return receiver
    whole = [receiver, *sharers, *fusers]
    digest = hashlib.sha256(json.dumps([receiver, list(sharers), list(fusers)]).encode()).hexdigest()[:8]
    return "+".join(_last_part(text) for text in whole) + f"-{digest}"


def name_in(arguments: Mapping[str, Any]) -> str | None:
    """The name of the model that lm-eval's ``model_args`` describe; None where they are those of another engine."""
    read = {SPELLINGS[key]: str(value) for key, value in arguments.items() if key in SPELLINGS and value is not None}
    if "receiver" not in read or ("receiver" not in arguments and "sharer" not in read):
        return None
    sharers, fusers = (read[part].split(";") if part in read else [] for part in ("sharer", "fuser"))
    return model_name(read.get("peft", read["receiver"]), sharers, fusers)


def describe_models(config: RunConfig, cast: Cast, channel: Channel, reading: Reading) -> dict[str, Any]:
    """Models and fusers with their digests, and what lm-eval records of a model, under lm-eval's own names.

    ``prompts`` says how prompts become tokens, see `harness.evaluation.prompt_record.prompt_settings`.
    """
    models, fusers = models_of(cast), fusers_of(config, cast)
    answering = models[0]
    named = [("receiver", cast.receiver), *((f"sharer {i}", lm) for i, lm in enumerate(cast.sharers))]
    speakers = [(role, lm) for role, lm in named if lm is not None]
    return {
        "model_name": model_name(config.peft or config.receiver, config.sharers, config.fusers),
        "model_num_parameters": answering.parameters,
        "model_dtype": answering.dtype,
        "model_revision": answering.revision,
        "model_sha": answering.revision or answering.fingerprint,
        "max_length": channel.answers.max_length,
        "channel": channel.name,
        "variant": channel.variant,
        "models": [model.model_dump(mode="json") for model in models],
        "fusers": fusers,
        "prompts": prompts_described(reading, dict(speakers)),
    }


def cache_identity(setup: Setup, cast: Cast, description: Mapping[str, Any]) -> str:
    """Digest of everything that may change an answer to one and the same request."""
    speakers = [lm for lm in (cast.receiver, *cast.sharers) if lm is not None]
    parts = {
        "config": identity(setup.config),
        "reading": asdict(setup.reading),
        "described": dict(description),
        "templates": [str(lm.tokenizer.chat_template) for lm in speakers],
        "harness": __version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def keep_apart(answers: Any, identity_of_model: str) -> None:
    """Makes lm-eval's file of cached answers keep this model's under keys of its own.

    lm-eval's keys hold the request alone, so a file that two models share would give one the other's answers.

    Args:
        answers: lm-eval's `SqliteDict`; None where nothing is cached.
        identity_of_model: see `cache_identity`.

    Raises:
        UserError: lm-eval keeps its answers in another way.
    """
    if answers is None:
        return
    if not callable(getattr(answers, "encode_key", None)):
        raise UserError(
            "This release of lm-eval keeps cached answers so that models cannot be told apart; leave --use_cache out."
        )
    answers.encode_key = lambda key: f"{identity_of_model} {key}"


def check_told_apart(instances: Sequence[Any], asked: Sequence[Request]) -> None:
    """Refuses requests that lm-eval's cache takes for one, while their rows give a text sharer other questions.

    Raises:
        UserError: naming the tasks.
    """
    seen: dict[str, tuple[Query, str]] = {}
    for instance, request in zip(instances, asked, strict=True):
        query, task = request.query, str(instance.task_name)
        first, other = seen.setdefault(json.dumps(instance.args), (query, task))
        if (first.question, first.choices, first.t2t_prompt) != (query.question, query.choices, query.t2t_prompt):
            raise UserError(
                f"Rows of {other} and {task} have one prompt, but give the sharer other questions; --use_cache knows "
                "the prompt alone, so leave it out or run them apart, each with a cache of its own."
            )


def refuse_views(instances: Sequence[Any], asked: Sequence[Request]) -> None:
    """Refuses requests whose sharer reads another prompt, of which lm-eval's cache knows nothing.

    Raises:
        UserError: naming a task.
    """
    for instance, request in zip(instances, asked, strict=True):
        if request.query.sharer_view is not None:
            raise UserError(
                f"Task {instance.task_name!r} gives its sharer a view of its own, and --use_cache knows the receiver's "
                "prompt alone; leave it out."
            )


def _last_part(text: str) -> str:
    name = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.@=-]+", "_", name)[:_LONGEST_PART]


def latency_of(
    channel: Channel, asked: Mapping[str, Sequence[Request]], samples: int, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Times requests of every task.

    Args:
        channel: what answers.
        asked: task -> its requests.
        samples: how many of each task are timed, drawn with a fixed seed.
        warm_up: of these, how many are answered before timing starts.

    Returns:
        Task -> seconds (``ttft_s_p50``, ``e2e_s_p50``, ``tpot_s_p50``, ...) by the names of the harness's own results,
        and the conditions. Options have no time per token: they are scored, and their first token is their last.
    """
    found = {}
    for task, requests in asked.items():
        drawn = draw(requests, samples, seed=0)
        for request in drawn[:warm_up]:
            timed_alone(channel, request)
        rounds = range(ROUNDS)
        timings = [t for r in rounds for t in (_timing(channel, task, i, q, r) for i, q in enumerate(drawn)) if t]
        conditions = f"batch 1, {min(warm_up, len(drawn))} warm-up requests, {ROUNDS} rounds of {len(drawn)} requests"
        found[task] = {**latency_fields(timings), "conditions": conditions}
    return found


def _timing(channel: Channel, task: str, position: int, request: Request, round_: int) -> Timing | None:
    timed = timed_alone(channel, request)
    answer = timed.answer
    if answer.fault is not None:
        return None
    return Timing(
        task=task,
        doc_id=str(position),
        position=position,
        channel=channel.name,
        round=round_,
        **timing_fields(timed, request),
        tokens_out=len(answer.tokens) or len(answer.scored[:1]),
    )
