"""Every channel by name: what it needs, how it is built, and where it stands in tables.

Nobody else compares channel names: configuration, loading, tables and pictures ask the entry. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.registry import Registry

Need = Literal["sharer", "fuser", "tuned"]
MessageKind = Literal["", "text", "tensors"]
Payload = Literal["native", "int8", "int4"]
OTHER_COLOR = "#2b7a6b"


class Options(BaseModel):
    """Base of a channel's options: strict about names, comparable, without anything that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class TensorOptions(Options):
    """Options of every channel whose message is of tensors."""

    payload: Payload = "native"
    """Form in which the message crosses: as it is, or in 8 or 4 bits a value with a scale for each token and head."""


class EnsembleOptions(Options):
    """Options of `ensemble`."""

    rule: Literal["mean", "product", "confident"] = "mean"
    """Mean of probabilities, normalised product of probabilities, or the distribution of the lower entropy."""


class RoutedOptions(Options):
    """Options of `routed`."""

    by: Literal["receiver_entropy", "sharer_entropy", "difference", "random"] = "receiver_entropy"
    """Score by which a question goes to the sharer: a doubtful receiver, a sure sharer, both, or chance."""
    share: float = Field(0.5, ge=0, le=1)
    """Part of all questions of the task that go to the sharer."""
    threshold: float | None = None
    """Score in nats from which a question goes to the sharer, in place of a share."""


@dataclass(frozen=True)
class ChannelEntry:
    """What the harness has to know of a channel.

    Attributes:
        name: on the command line, in records and tables.
        summary: one line for lists and help.
        build: ``module:function`` or the function, `(models, options) -> channel arms`, see `harness.channels.arms`;
            empty for a channel that is composed, and for a row that stands in every table by itself.
        compose: ``module:function`` or the function that makes its samples and timings of those of `reads`, without any
            model pass; see `harness.channels.composed`.
        needs: what has to be loaded beside the receiver.
        reads: channels of the same run that it is composed of.
        message: kind of message that crosses; decides which controls apply, see `harness.channels.control_registry`.
        options: pydantic model of its options.
        order: place in tables, from low to high.
        color: in pictures.
        usual: whether it takes part where no channels are named.
        rival: whether a channel with a message is judged against it, see `harness.results.claims`.
        through_engine: whether an external serving engine can run it.
    """

    name: str
    summary: str
    build: str | Callable[..., Any] = ""
    compose: str | Callable[..., Any] = ""
    needs: frozenset[Need] = frozenset()
    reads: tuple[str, ...] = ()
    message: MessageKind = ""
    options: type[Options] = Options
    order: int = 100
    color: str = OTHER_COLOR
    usual: bool = False
    rival: bool = False
    through_engine: bool = False


_SHARER: frozenset[Need] = frozenset({"sharer"})
_OURS = (
    ChannelEntry("chance", "guessing; beside every option task, without a model pass", order=1, color="#b9bec7"),
    ChannelEntry("majority", "always the usual label; likewise", order=2, color="#9aa3b0"),
    ChannelEntry(
        "receiver",
        "the receiver alone",
        build="harness.channels.single:build_receiver",
        order=10,
        color="#5b6472",
        usual=True,
        rival=True,
        through_engine=True,
    ),
    ChannelEntry(
        "tuned",
        "the receiver alone, fine-tuned on the same rows",
        build="harness.channels.single:build_tuned",
        needs=frozenset({"tuned"}),
        order=20,
        color="#3f7d58",
    ),
    ChannelEntry(
        "sharer",
        "the sharer alone",
        build="harness.channels.single:build_sharer",
        needs=_SHARER,
        order=30,
        color="#8a6d1f",
        usual=True,
        rival=True,
        through_engine=True,
    ),
    ChannelEntry(
        "routed",
        "each question to receiver or sharer, by a score that costs no further pass",
        compose="harness.channels.routed:compose",
        needs=_SHARER,
        reads=("receiver", "sharer"),
        options=RoutedOptions,
        order=40,
        color="#7a4fa3",
    ),
    ChannelEntry("oracle", "right if receiver or sharer is right; likewise", needs=_SHARER, order=45, color="#c2a14a"),
    ChannelEntry(
        "ensemble",
        "both models' probabilities combined, nothing trained",
        build="harness.channels.ensemble:build",
        needs=_SHARER,
        options=EnsembleOptions,
        order=50,
        color="#a3476b",
        usual=True,
        rival=True,
    ),
    ChannelEntry(
        "t2t",
        "the sharer writes a text, the receiver reads it as an earlier turn",
        build="harness.channels.t2t:build",
        needs=_SHARER,
        message="text",
        order=60,
        color="#b4531a",
        usual=True,
        rival=True,
        through_engine=True,
    ),
    ChannelEntry(
        "c2c",
        "the sharer's KV-cache is fused into the receiver's",
        build="harness.channels.c2c:build",
        needs=frozenset({"sharer", "fuser"}),
        message="tensors",
        options=TensorOptions,
        order=70,
        color="#1763b5",
        usual=True,
    ),
)

CHANNELS: Registry[ChannelEntry] = Registry("channel", "c2c_harness.channels", _OURS)
