"""From names to channels: loads the models once and builds every channel that a run compares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.channels.arms import Group, LoadedModels, Unsuitable
from harness.channels.spec import ChannelSpec, parse_channel
from harness.config import RunConfig
from harness.config.served import OWN
from harness.engine import Request
from harness.errors import UserError
from harness.fusion.alignment import same_vocabulary
from harness.fusion.checkpoint import check_fits
from harness.fusion.checkpoint import load as load_fuser
from harness.fusion.fuser import Fuser
from harness.fusion.shapes import kv_shape
from harness.models import LM, Reference, load, parse_reference
from harness.paths import located
from harness.prompts import check_template
from harness.registry import resolve

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
        left_out: usual channels that nobody named and that do not apply, each with the reason.
    """

    receiver: LM | None
    sharers: tuple[LM, ...]
    fusers: tuple[Fuser, ...]
    groups: tuple[Group, ...]
    served: tuple[Served, ...] = ()
    tuned: LM | None = None
    self_fuser: Fuser | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cpu") if self.receiver is None else self.receiver.device


def assemble(config: RunConfig, requests: Sequence[Request] = ()) -> Cast:
    """Loads what the configured channels need.

    Args:
        config: names the channels and their models.
        requests: what is going to be asked, where that is known; a text channel says whose words its sharer reads.

    Raises:
        UserError: a model or fuser cannot be loaded, a fuser was made for other shapes, or `may_answer` is asked of a
            task that words the sharer's turn itself.
    """
    if config.backend != OWN:
        from harness.served.cast import assemble_served

        return assemble_served(config, [request.query for request in requests])
    models = _loaded(config, requests)
    groups: list[Group] = []
    left_out: dict[str, str] = {}
    for name in config.channels:
        try:
            groups += _arms(parse_channel(name), models)
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
        left_out=left_out,
    )


def _loaded(config: RunConfig, requests: Sequence[Request]) -> LoadedModels:
    needs = {need for name in config.channels for need in parse_channel(name).entry.needs}
    receiver = _load(config, config.receiver, config.receiver_chat_template)
    named = config.sharers if "sharer" in needs else ()
    sharers = tuple(_load(config, reference, config.sharer_chat_template) for reference in named)
    fusers: tuple[Fuser, ...] = ()
    if "fuser" in needs:
        pairs = zip(config.fusers, sharers, strict=True)
        fusers = tuple(fitting_fuser(path, receiver, sharer) for path, sharer in pairs)
    return LoadedModels(
        receiver,
        config,
        sharers,
        fusers,
        tuned=fine_tuned(config, receiver) if "tuned" in needs else None,
        self_fuser=_self_fuser(config, receiver, needs),
        requests=requests,
    )


def _arms(spec: ChannelSpec, models: LoadedModels) -> list[Group]:
    """The arms of one channel, under the name by which it was asked for; none of a channel that is composed."""
    if not spec.entry.build:
        return []
    groups: list[Group] = resolve(spec.entry.build)(models, spec.options)
    if spec.text == spec.entry.name:
        return groups
    return [replace(group, channel=replace(group.channel, name=spec.text)) for group in groups]


def fine_tuned(config: RunConfig, receiver: LM) -> LM:
    """Loads the fine-tuned receiver and gives it the receiver's own tokenizer, so that both read the same prompts.

    Raises:
        UserError: it cannot be loaded, or speaks another vocabulary or through another chat template.
    """
    assert config.tuned is not None
    lm = _load(config, parse_reference(config.tuned, config.receiver), config.receiver_chat_template)
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
    return replace(lm, tokenizer=receiver.tokenizer)


def fitting_fuser(path: str, receiver: LM, sharer: LM) -> Fuser:
    """Loads a fuser onto the receiver's device and checks that it was made for these two models."""
    fuser = load_fuser(hub_folder(path))
    check_fits(fuser, kv_shape(receiver.model.config), kv_shape(sharer.model.config))
    return fuser.to(device=receiver.device, dtype=receiver.dtype).eval().requires_grad_(False)


def hub_folder(reference: str) -> str:
    """Returns a local folder for a fuser reference: a folder, or ``hub/id[@revision][:subfolder]``."""
    if located(reference).is_dir():
        return str(located(reference))
    repository, _, folder = reference.partition(":")
    name, _, revision = repository.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/")) or ".." in folder:
        raise UserError(f"Fuser {reference!r}: no such folder; give a folder or 'org/name@revision:subfolder'.")
    from huggingface_hub import snapshot_download

    try:
        root = snapshot_download(name, revision=revision or None, allow_patterns=[f"{folder}/*"] if folder else None)
    except Exception as error:
        raise UserError(f"Fuser {reference!r} cannot be fetched: {type(error).__name__}: {str(error)[:200]}") from error
    return str(Path(root) / folder)


def _load(config: RunConfig, reference: str | Reference, chat_template: str | None) -> LM:
    lm = load(
        reference,
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
    return lm


def _self_fuser(config: RunConfig, receiver: LM, needs: Collection[str]) -> Fuser | None:
    if config.self_fuser is None or "fuser" not in needs or "self" not in config.controls:
        return None
    return fitting_fuser(config.self_fuser, receiver, receiver)


