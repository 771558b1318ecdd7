"""Who takes part in a run through somebody else's engine, and what it cannot be asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.accuracy import Item
from harness.assembly import Cast, renamed
from harness.channels.arms import Group, Unsuitable
from harness.channels.registry import Options, TextOptions
from harness.channels.spec import ChannelSpec, parse_channel
from harness.channels.t2t import check_views, text_variant
from harness.config import RunConfig
from harness.errors import UserError
from harness.inference.types import Query
from harness.registry import resolve
from harness.served.answers import cannot_score
from harness.served.backend import Served, build
from harness.served.channels import ServedSingle, ServedText
from harness.served.probe import check_scores

_ROLES = ("receiver", "sharer")


@dataclass
class Engines:
    """The models of a run behind an engine, each set up when a channel asks for it.

    Attributes:
        ready: role -> model.
    """

    config: RunConfig
    ready: dict[str, Served] = field(default_factory=dict)

    @property
    def receiver(self) -> Served:
        """The model that answers."""
        return self._set_up("receiver", self.config.receiver, self.config.receiver_args)

    @property
    def sharer(self) -> Served:
        """The first model that sends."""
        return self._set_up("sharer", self.config.sharers[0], self.config.sharer_args)

    def _set_up(self, role: str, name: str, arguments: str) -> Served:
        if role not in self.ready:
            config = self.config
            self.ready[role] = build(
                role, config.backend, name, arguments, chat=config.chat, batch_size=config.batch_size
            )
        return self.ready[role]


def receiver_alone(engines: Engines, _: Options, __: Sequence[Query]) -> Group:
    """The receiver alone."""
    return Group(ServedSingle(engines.receiver))


def sharer_alone(engines: Engines, _: Options, __: Sequence[Query]) -> Group:
    """The sharer alone."""
    return Group(ServedSingle(engines.sharer, "sharer", "sharer"))


def texts(engines: Engines, options: TextOptions, queries: Sequence[Query]) -> Group:
    """The sharer writes, the receiver reads."""
    style = text_variant(options, queries)
    try:
        check_views(style, queries)
    except Unsuitable as reason:
        raise UserError(f"Channel t2t does not apply: {reason}.") from reason
    return Group(ServedText(engines.receiver, engines.sharer, style), engines.config.controls)


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
    engines = Engines(config)
    groups = [_named(parse_channel(name), engines, queries) for name in config.channels]
    models = sorted(engines.ready.values(), key=lambda model: _ROLES.index(model.role))
    return Cast(None, (), (), tuple(groups), tuple(models))


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


def _named(spec: ChannelSpec, engines: Engines, queries: Sequence[Query]) -> Group:
    """The arms of one channel under the name by which it was asked for."""
    group: Group = resolve(spec.entry.through_engine)(engines, spec.options, queries)
    return group if spec.text == group.channel.name else replace(group, channel=renamed(group.channel, spec.text))
