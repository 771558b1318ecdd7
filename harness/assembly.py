"""From names to channels: loads the models once and builds every channel that a run compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from harness.channels.arms import Group, LoadedModels, Unsuitable
from harness.channels.control_registry import CONTROLS, taken
from harness.channels.spec import ChannelSpec, parse_channel
from harness.config import RunConfig
from harness.config.served import OWN
from harness.errors import UserError
from harness.fusion.alignment import same_vocabulary
from harness.fusion.checkpoint import check_fits
from harness.fusion.checkpoint import load as load_fuser
from harness.fusion.interface import FuserModule
from harness.fusion.shapes import kv_shape
from harness.hub import Commits, Snapshot, Wanted
from harness.inference.types import Request
from harness.models import LM, fetched, load, parse_reference
from harness.paths import located
from harness.prompts import check_template
from harness.registry import resolve
from harness.self_check import checked

if TYPE_CHECKING:
    from harness.served.backend import Served


@dataclass(frozen=True)
class Cast:
    """Everybody who takes part in a run.

    Attributes:
        receiver: None where somebody else's engine runs it.
        served: the models behind such an engine, receiver first.
        tuned: the receiver after fine-tuning, where it is asked.
        self_fuser: of the receiver with itself, where that control is asked.
        fuser_places: reference of a fuser -> where its files are.
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
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cpu") if self.receiver is None else self.receiver.device


def assemble(config: RunConfig, requests: Sequence[Request] = (), commits: Commits | None = None) -> Cast:
    """Loads what the configured channels need.

    Args:
        config: names the channels and their models.
        requests: what is going to be asked, where that is known; a text channel says whose words its sharer reads.
        commits: that an earlier session of the run has read, for references without a commit.

    Raises:
        UserError: a model or fuser cannot be loaded, a fuser was made for other shapes, or `may_answer` is asked of a
            task that words the sharer's turn itself.
    """
    if config.backend != OWN:
        from harness.served.cast import assemble_served

        return assemble_served(config, [request.query for request in requests])
    commits = commits or Commits()
    places = {name: fuser_place(name, commits) for name in _fusers_asked(config)}
    models = _loaded(config, requests, commits, places)
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
        left_out=left_out,
    )


def _loaded(
    config: RunConfig, requests: Sequence[Request], commits: Commits, places: Mapping[str, Snapshot]
) -> LoadedModels:
    needs = _needs(config)
    receiver = _receiver(config, commits)
    named = config.sharers if "sharer" in needs else ()
    sharers = tuple(_load(config, reference, config.sharer_chat_template, commits) for reference in named)
    fusers: tuple[FuserModule, ...] = ()
    if "fuser" in needs:
        pairs = zip(config.fusers, sharers, strict=True)
        fusers = tuple(fitting_fuser(places[name], receiver, sharer) for name, sharer in pairs)
    own = _self_fuser(config)
    return LoadedModels(
        receiver,
        config,
        sharers,
        fusers,
        tuned=fine_tuned(config, receiver, commits) if "tuned" in needs else None,
        self_fuser=None if own is None or own not in places else fitting_fuser(places[own], receiver, receiver),
        requests=requests,
    )


def arms_of(spec: ChannelSpec, models: LoadedModels) -> list[Group]:
    """The arms of one channel, under the name by which it was asked for; none of a channel that is composed."""
    if not spec.entry.build:
        return []
    taking = [CONTROLS.get(name) for name in taken(models.config.controls, spec.entry)]
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
    return [replace(group, channel=renamed(group.channel, spec.text)) for group in groups]


def renamed(channel: Any, name: str) -> Any:
    """The same channel under the name by which it was asked for; every channel is a dataclass."""
    return replace(channel, name=name)


def fine_tuned(config: RunConfig, receiver: LM, commits: Commits) -> LM:
    """Loads the fine-tuned receiver and gives it the receiver's own tokenizer, so that both read the same prompts.

    Raises:
        UserError: it cannot be loaded, or speaks another vocabulary or through another chat template.
    """
    assert config.tuned is not None
    lm = _load(config, config.tuned, config.receiver_chat_template, commits, config.receiver)
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


def fitting_fuser(place: Snapshot, receiver: LM, sharer: LM) -> FuserModule:
    """Loads a fuser onto the receiver's device and checks that it was made for these two models."""
    fuser = load_fuser(str(place.folder))
    check_fits(fuser, kv_shape(receiver.model.config), kv_shape(sharer.model.config))
    return fuser.to(device=receiver.device, dtype=receiver.dtype).eval().requires_grad_(False)


def fuser_place(reference: str, commits: Commits | None = None) -> Snapshot:
    """Finds a fuser's folder: one of this machine, or ``hub/id[@revision][:subfolder]``.

    Raises:
        UserError: it is neither, or cannot be had at its revision.
    """
    if located(reference).is_dir():
        return Snapshot("", "", located(reference))
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


def _load(
    config: RunConfig, reference: str, chat_template: str | None, commits: Commits, base: str | None = None
) -> LM:
    lm = load(
        fetched(parse_reference(reference, base), commits),
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        chat_template=chat_template,
        trust_remote_code=config.trust_remote_code,
        device_map=config.device_map,
        tensor_parallel=config.tensor_parallel,
    )
    if config.chat:
        check_template(lm)  # a missing or broken template is refused before anything is asked
    return checked(lm)


def _receiver(config: RunConfig, commits: Commits) -> LM:
    base = config.receiver if config.peft else None
    lm = _load(config, config.peft or config.receiver, config.receiver_chat_template, commits, base)
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
    return config.self_fuser if "self" in config.controls else None
