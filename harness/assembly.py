"""From names to channels: loads the models once and builds every channel that a run compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from harness.channels.base import Answering, Channel, Query
from harness.channels.c2c import CacheToCache, Link
from harness.channels.controls import CACHE_CONTROLS, TEXT_CONTROLS
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.config import RunConfig
from harness.config.served import OWN
from harness.errors import UserError
from harness.fusion.alignment import same_vocabulary
from harness.fusion.checkpoint import check_fits
from harness.fusion.checkpoint import load as load_fuser
from harness.fusion.fuser import Fuser
from harness.fusion.shapes import kv_shape
from harness.merging import parameters_of
from harness.models import LM, Reference, load, parse_reference
from harness.paths import located
from harness.prompts import check_template

if TYPE_CHECKING:
    from harness.served.backend import Served


@dataclass(frozen=True)
class Group:
    """A channel that sends, with the controls that tamper with what it sends."""

    channel: Channel | Answering
    controls: tuple[str, ...] = ()
    name_control: str = ""


@dataclass(frozen=True)
class Cast:
    """Everybody who takes part in a run.

    Attributes:
        receiver: None where somebody else's engine runs it.
        served: the models behind such an engine, receiver first.
        tuned: the receiver after fine-tuning, where it is asked.
        self_fuser: of the receiver with itself, where that control is asked.
    """

    receiver: LM | None
    sharers: tuple[LM, ...]
    fusers: tuple[Fuser, ...]
    groups: tuple[Group, ...]
    served: tuple[Served, ...] = ()
    tuned: LM | None = None
    self_fuser: Fuser | None = None

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cpu") if self.receiver is None else self.receiver.device


def assemble(config: RunConfig, queries: Sequence[Query] = ()) -> Cast:
    """Loads what the configured channels need.

    Args:
        config: names the channels and their models.
        queries: what is going to be asked, where that is known; a text channel says whose words its sharer reads.

    Raises:
        UserError: a model or fuser cannot be loaded, a fuser was made for other shapes, or `may_answer` is asked of a
            task that words the sharer's turn itself.
    """
    if config.backend != OWN:
        from harness.served.cast import assemble_served

        return assemble_served(config, queries)
    receiver = _load(config, config.receiver, config.receiver_chat_template)
    speaking = set(config.channels) - {"receiver", "tuned"}
    sharers = tuple(_load(config, s, config.sharer_chat_template) for s in config.sharers) if speaking else ()
    fusers: tuple[Fuser, ...] = ()
    if "c2c" in config.channels:
        pairs = zip(config.fusers, sharers, strict=True)
        fusers = tuple(fitting_fuser(path, receiver, sharer) for path, sharer in pairs)
    own = _self_fuser(config, receiver)
    groups = _groups(config, receiver, sharers, fusers, own, queries)
    cast = Cast(receiver, sharers, fusers, tuple(groups), self_fuser=own)
    if "tuned" not in config.channels:
        return cast
    tuned = fine_tuned(config, receiver)
    alone = Group(Single(tuned, "tuned", _adapter(tuned)))
    return replace(cast, groups=(*groups, alone), tuned=tuned)


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


def _adapter(lm: LM) -> str:
    adapter = lm.reference.adapter
    return "" if adapter is None else f"adapter of {parameters_of(Path(adapter)):,} parameters"


def text_variant(config: RunConfig, queries: Sequence[Query]) -> TextVariant:
    """How a run asks its sharer.

    Raises:
        UserError: it asks for a wording where a task has its own.
    """
    own = sum(query.t2t_prompt is not None for query in queries)
    if own and config.may_answer:
        raise UserError("may_answer changes how the sharer is asked, but a task has words of its own; leave it out.")
    words: Literal["none", "some", "all"] = "none" if not own else "all" if own == len(queries) else "some"
    return TextVariant(config.with_options, config.may_answer, config.t2t_tokens, words)


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


def _self_fuser(config: RunConfig, receiver: LM) -> Fuser | None:
    if config.self_fuser is None or "c2c" not in config.channels or "self" not in config.controls:
        return None
    return fitting_fuser(config.self_fuser, receiver, receiver)


def _groups(
    config: RunConfig,
    receiver: LM,
    sharers: Sequence[LM],
    fusers: Sequence[Fuser],
    own: Fuser | None,
    queries: Sequence[Query],
) -> list[Group]:
    made = []
    for name in config.channels:
        if name == "receiver":
            made.append(Group(Single(receiver)))
        elif name == "sharer":
            made.append(Group(Single(sharers[0], "sharer")))
        elif name == "t2t":
            controls = tuple(c for c in config.controls if c in TEXT_CONTROLS)
            made.append(Group(TextToText(receiver, sharers[0], text_variant(config, queries)), controls))
        elif name == "c2c":
            links = tuple(Link(s, f) for s, f in zip(sharers, fusers, strict=True))
            channel = CacheToCache(receiver, links, config.fusion_mode, config.alignment)
            controls = tuple(c for c in config.controls if c in CACHE_CONTROLS or c == "closed")
            made.append(Group(channel, controls))
            if own is not None:
                alone = CacheToCache(receiver, (Link(receiver, own),), config.fusion_mode)
                made.append(Group(alone, name_control="self"))
    return made
