"""Loads the models of a run once, or sets up their engines, and builds every channel.

Every channel that a run compares is built from its name. A run through an external engine has its own cast, and
questions that such an engine cannot answer are refused.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from harness.benchmarks.questions import Item
from harness.channels.control_registry import CONTROLS, controls_of_self, controls_taken
from harness.channels.interface import Group, LoadedModels, Unsuitable
from harness.channels.registry import Options, TextOptions
from harness.channels.spec import ChannelSpec, parse_channel
from harness.channels.t2t import check_views, text_variant
from harness.config import RunConfig
from harness.config.validation import OWN
from harness.errors import UserError
from harness.fusers.checkpoint import check_fits
from harness.fusers.checkpoint import load as load_fuser
from harness.fusers.interface import FuserModule
from harness.inference.types import Query, Request
from harness.models.chat import check_template, same_vocabulary, template_flag, template_remedy
from harness.models.hub import Commits, Snapshot, Wanted
from harness.models.lm import LM, kv_shape, with_own_modules
from harness.models.loading import fetch_reference, load, read_template
from harness.models.reference import parse_reference, refuse_in_memory
from harness.paths import locate
from harness.registry import resolve
from harness.self_check import checked
from harness.serving.backend import Served, build
from harness.serving.channels import ServedSingle, ServedText
from harness.serving.requests import cannot_score, check_scores


@dataclass(frozen=True)
class InMemory:
    """What a run is given as objects, by the references under which its configuration names them.

    Attributes:
        models: see `harness.models.in_memory`.
        fusers: as they are; a run works with copies over the same weights.
        fuser_digests: one for each of them.
    """

    models: Mapping[str, LM] = field(default_factory=dict)
    fusers: Mapping[str, FuserModule] = field(default_factory=dict)
    fuser_digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sources:
    """Where models come from: the hub's commits that the run has read, and the caller."""

    commits: Commits
    given: InMemory


@dataclass(frozen=True)
class Cast:
    """Everybody who takes part in a run.

    Attributes:
        receiver: None where somebody else's engine runs it.
        served: the models behind such an engine, receiver first.
        tuned: the receiver after fine-tuning, where it is asked.
        self_fuser: of the receiver with itself, where that control is asked.
        fuser_places: reference of a fuser -> where its files are.
        fuser_digests: reference of a fuser that was given as an object -> its digest.
        left_out: usual channels that nobody named and that do not apply, each with the reason.
    """

    receiver: LM | None
    sharers: tuple[LM, ...]
    fusers: tuple[FuserModule, ...]
    groups: tuple[Group, ...]
    served: tuple[Served, ...] = ()
    tuned: LM | None = None
    self_fuser: FuserModule | None = None
    fuser_places: Mapping[str, Snapshot] = field(default_factory=dict)
    fuser_digests: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cpu") if self.receiver is None else self.receiver.device


def load_cast(
    config: RunConfig,
    requests: Sequence[Request] = (),
    commits: Commits | None = None,
    given: InMemory | None = None,
) -> Cast:
    """Loads what the configured channels need.

    Args:
        config: names the channels and their models.
        requests: what is going to be asked, where that is known; a text channel says whose words its sharer reads.
        commits: that an earlier session of the run has read, for references without a commit.
        given: models and fusers that are here already.

    Raises:
        UserError: a model or fuser cannot be loaded, a fuser was made for other shapes, or `may_answer` is asked of a
            task that words the sharer's turn itself.
    """
    if config.backend != OWN:
        return assemble_served(config, [request.query for request in requests])
    sources = _Sources(commits or Commits(), given or InMemory())
    named = [name for name in _fusers_asked(config) if name not in sources.given.fusers]
    places = {name: fuser_place(name, sources.commits) for name in named}
    models = _loaded(config, requests, sources, places)
    groups: list[Group] = []
    left_out: dict[str, str] = {}
    for name in config.channels:
        try:
            groups += arms_of(parse_channel(name), models)
        except Unsuitable as reason:
            if "channels" in config.model_fields_set:
                raise UserError(f"Channel {name} does not apply: {reason}. Leave it out of --channels.") from reason
            left_out[name] = str(reason)
    return Cast(
        models.receiver,
        models.sharers,
        models.fusers,
        tuple(groups),
        tuned=models.tuned,
        self_fuser=models.self_fuser,
        fuser_places=places,
        fuser_digests=sources.given.fuser_digests,
        left_out=left_out,
    )


def _loaded(
    config: RunConfig, requests: Sequence[Request], sources: _Sources, places: Mapping[str, Snapshot]
) -> LoadedModels:
    needs = _needs(config)
    receiver = _receiver(config, sources)
    named = config.sharers if "sharer" in needs else ()
    sharers = tuple(_load(config, reference, "sharer", sources) for reference in named)

    def fuser(name: str, sharer: LM) -> FuserModule:
        here = sources.given.fusers.get(name)
        loaded = load_fuser(str(places[name].folder)) if here is None else with_own_modules(here)
        return fitting_fuser(loaded, receiver, sharer)

    fusers: tuple[FuserModule, ...] = ()
    if "fuser" in needs:
        fusers = tuple(fuser(*pair) for pair in zip(config.fusers, sharers, strict=True))
    own = _self_fuser(config)
    return LoadedModels(
        receiver,
        config.controls,
        sharers,
        fusers,
        tuned=fine_tuned(config, receiver, sources) if "tuned" in needs else None,
        self_fuser=None if own is None or "fuser" not in needs else fuser(own, receiver),
        requests=requests,
    )


def arms_of(spec: ChannelSpec, models: LoadedModels) -> list[Group]:
    """The arms of one channel, under the name by which it was asked for; none of a channel that is composed."""
    if not spec.entry.build:
        return []
    taking = [CONTROLS.get(name) for name in controls_taken(models.controls, spec.entry)]
    shared = tuple(control.name for control in taking if not control.models)
    groups = [replace(group, controls=shared) for group in _built(spec, models)]
    for control in taking:
        if control.models:
            groups += [replace(g, name_control=control.name) for g in _built(spec, resolve(control.models)(models))]
    return groups


def _built(spec: ChannelSpec, models: LoadedModels) -> list[Group]:
    groups: list[Group] = resolve(spec.entry.build)(models, spec.options)
    asked = getattr(spec.options, "payload", "native")
    if any(getattr(group.channel, "payload", "native") != asked for group in groups):
        raise UserError(
            f"Channel {spec.text}: payload has no effect, since its builder drops the option; leave it out."
        )
    if spec.text == spec.entry.name:
        return groups
    return [replace(group, channel=rename_channel(group.channel, spec.text)) for group in groups]


def rename_channel(channel: Any, name: str) -> Any:
    """The same channel under the name by which it was asked for; every channel is a dataclass."""
    return replace(channel, name=name)


def fine_tuned(config: RunConfig, receiver: LM, sources: _Sources) -> LM:
    """Loads the fine-tuned receiver and gives it the receiver's own tokenizer, so that both read the same prompts.

    Raises:
        UserError: it cannot be loaded, or speaks another vocabulary or through another chat template.
    """
    assert config.tuned is not None
    lm = _load(config, config.tuned, "receiver", sources, config.receiver)
    if not same_vocabulary(receiver.tokenizer, lm.tokenizer):
        raise UserError(
            f"tuned is {config.tuned!r}, whose tokenizer is not that of the receiver {config.receiver!r}; give an "
            "adapter or a model that was fine-tuned from this receiver."
        )
    if lm.tokenizer.chat_template not in (None, receiver.tokenizer.chat_template) and config.chat:
        raise UserError(
            f"tuned is {config.tuned!r}, which brings another chat template than the receiver {config.receiver!r}, but "
            "both have to read the same prompts; give one template for both with --receiver-chat-template."
        )
    return replace(lm, tokenizer=receiver.tokenizer, max_length=receiver.max_length)


def fitting_fuser(fuser: FuserModule, receiver: LM, sharer: LM) -> FuserModule:
    """Checks that a fuser was made for these two models and puts it onto the receiver's device."""
    check_fits(fuser, kv_shape(receiver.model.config), kv_shape(sharer.model.config))
    return fuser.to(device=receiver.device, dtype=receiver.dtype).eval().requires_grad_(False)


def fuser_place(reference: str, commits: Commits | None = None) -> Snapshot:
    """Finds a fuser's folder: one of this machine, or ``hub/id[@revision][:subfolder]``.

    Raises:
        UserError: it is neither, or cannot be had at its revision.
    """
    refuse_in_memory("Fuser", reference)
    if locate(reference).is_dir():
        return Snapshot("", "", locate(reference))
    repository, _, folder = reference.partition(":")
    name, _, revision = repository.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/")) or ".." in folder:
        raise UserError(f"Fuser {reference!r}: no such folder; give a folder or 'org/name@revision:subfolder'.")
    wanted = Wanted((f"{folder.strip('/')}/*",) if folder else ())
    try:
        found = (commits or Commits()).snapshot(name, revision or None, wanted)
    except UserError as error:
        raise UserError(f"Fuser {reference!r} cannot be fetched: {error}") from error
    return replace(found, folder=found.folder / folder)


def _load(config: RunConfig, reference: str, role: str, sources: _Sources, base: str | None = None) -> LM:
    """Loads a model, which reads through the template that is given to its role."""
    chat_template = getattr(config, template_flag(role))
    here = sources.given.models.get(reference)
    lm = _read(config, reference, chat_template, sources, base) if here is None else _speaking(here, chat_template)
    if config.chat:
        # A missing or broken template is refused before anything is asked.
        check_template(lm, f"{template_remedy(role)}, or ask in plain text with --no-chat")
    return checked(lm)


def _speaking(lm: LM, chat_template: str | None) -> LM:
    """A model in memory with another chat template, where one is named."""
    if chat_template is None:
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = read_template(chat_template)
    return replace(lm, tokenizer=tokenizer)


def _read(config: RunConfig, reference: str, chat_template: str | None, sources: _Sources, base: str | None) -> LM:
    return load(
        fetch_reference(parse_reference(reference, base), sources.commits),
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        chat_template=chat_template,
        trust_remote_code=config.trust_remote_code,
        device_map=config.device_map,
        tensor_parallel=config.tensor_parallel,
    )


def _receiver(config: RunConfig, sources: _Sources) -> LM:
    base = config.receiver if config.peft else None
    lm = _load(config, config.peft or config.receiver, "receiver", sources, base)
    if config.peft and lm.reference.adapter is None:
        raise UserError(f"peft is {config.peft!r}, which is no adapter; give the folder that peft wrote.")
    if config.max_length is None:
        return lm
    if config.max_length > lm.max_length:
        raise UserError(
            f"max_length is {config.max_length}, but the context of {config.receiver!r} holds {lm.max_length} tokens; "
            "give at most that."
        )
    return replace(lm, max_length=config.max_length)


def _needs(config: RunConfig) -> set[str]:
    return {need for name in config.channels for need in parse_channel(name).entry.needs}


def _fusers_asked(config: RunConfig) -> list[str]:
    """References of the fusers that the channels and controls need."""
    if "fuser" not in _needs(config):
        return []
    own = _self_fuser(config)
    return [*config.fusers, *([own] if own is not None else [])]


def _self_fuser(config: RunConfig) -> str | None:
    return config.self_fuser if controls_of_self(config.controls) else None


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


def build_text_channel(engines: Engines, options: TextOptions, queries: Sequence[Query]) -> Group:
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
    return (
        group if spec.text == group.channel.name else replace(group, channel=rename_channel(group.channel, spec.text))
    )
