"""Who takes part in a run through somebody else's engine, and what it cannot be asked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.accuracy import Item
from harness.assembly import Cast
from harness.channels.arms import Group
from harness.channels.base import Answering
from harness.channels.t2t import text_variant
from harness.config import RunConfig
from harness.errors import UserError
from harness.inference.types import Query
from harness.served.answers import cannot_score
from harness.served.backend import Served, build
from harness.served.channels import ServedSingle, ServedText
from harness.served.probe import check_scores


def assemble_served(config: RunConfig, queries: Sequence[Query]) -> Cast:
    """Sets up the engines that the configured channels need.

    Raises:
        UserError: an engine cannot be set up, this is one of several processes, or see `text_variant`.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError(
            f"Backend {config.backend!r} spreads its work by itself, but {os.environ['WORLD_SIZE']} processes were "
            "started; start one, and give the engine its devices in --receiver_args and --sharer_args."
        )
    served: dict[str, Served] = {}
    if set(config.channels) & {"receiver", "t2t"}:
        served["receiver"] = _served(config, "receiver", config.receiver, config.receiver_args)
    if set(config.channels) & {"sharer", "t2t"}:
        served["sharer"] = _served(config, "sharer", config.sharers[0], config.sharer_args)
    groups = [_group(config, name, served, queries) for name in config.channels]
    return Cast(None, (), (), tuple(groups), tuple(served.values()))


def check_answerable(cast: Cast, items: Sequence[Item]) -> None:
    """Refuses what an engine cannot be asked, before anything is.

    Raises:
        UserError: a task scores options or opens the answer, and an engine takes chats only; or a server gives no
            loglikelihoods of options, see `check_scores`.
        RunError: a server is not there or lets nobody in.
    """
    _check_chats(cast, items)
    _check_settings(cast, items)
    channels = [group.channel for group in cast.groups if isinstance(group.channel, (ServedSingle, ServedText))]
    for model in dict.fromkeys(channel.model for channel in channels):
        check_scores(model, items)


def _check_settings(cast: Cast, items: Sequence[Item]) -> None:
    """Refuses what would have no effect, or another one, behind an engine."""
    for item in items if cast.served else ():
        if item.request.max_length is not None:
            raise UserError(
                f"gen_kwargs max_length of task {item.task!r} counts the prompt's tokens, which a backend does not "
                "tell; give max_gen_toks, which counts the answer alone."
            )
        rendering = next((model for model in cast.served if model.kind != "tokens"), None)
        if item.request.query.receiver.reading.thinking and rendering is not None:
            raise UserError(
                f"Backend {rendering.backend!r} renders chats itself, so enable_thinking has no effect; set it there."
            )


def _check_chats(cast: Cast, items: Sequence[Item]) -> None:
    chats = [model for model in cast.served if model.kind == "chat"]
    if not chats:
        return
    for item in items:
        if item.request.options:
            raise UserError(f"Task {item.task!r} compares options. {cannot_score(chats[0])}")
        if item.request.query.receiver.prefix:
            raise UserError(
                f"Task {item.task!r} opens the answer itself, and backend {chats[0].backend!r} takes whole turns only; "
                "use local-completions, vllm or hf."
            )


def _served(config: RunConfig, role: str, name: str, arguments: str) -> Served:
    return build(role, config.backend, name, arguments, chat=config.chat, batch_size=config.batch_size)


def _group(config: RunConfig, name: str, served: dict[str, Served], queries: Sequence[Query]) -> Group:
    channel: Answering
    if name == "t2t":
        channel = ServedText(served["receiver"], served["sharer"], text_variant(config, queries))
    else:
        channel = ServedSingle(served[name], name, "sharer" if name == "sharer" else "receiver")
    return Group(channel, config.controls if name == "t2t" else ())
