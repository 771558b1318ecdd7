"""Every channel by name: what it needs, how it is built, and its place in tables.

Channel names are compared nowhere else: configuration, loading, tables and pictures ask the entry. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from harness.channels.layer_selection import check_layer_choice
from harness.errors import UserError
from harness.registry import Registry

Need = Literal["sharer", "fuser", "tuned"]

MessageKind = Literal["", "text", "tensors"]

Payload = Literal["native", "int8", "int4"]

# What every table compares with is the receiver alone; what routing and the oracle choose from are these two.
RECEIVER, SHARER = "receiver", "sharer"

OTHER_COLOR = "#2b7a6b"


class Given(Protocol):
    """What a run gives its channels, as far as options may depend on it."""

    @property
    def sharers(self) -> tuple[str, ...]:
        """The sharers' references; none stands for the embedded pair's own."""


class Options(BaseModel):
    """Base of a channel's options: strict about names, comparable, without anything that is not finite.

    Example:
        class LayerOptions(Options):
            layers: Literal["first", "last"] = "last"
            '''Layers that are sent.'''
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def check(self, given: Given) -> None:
        """Refuses options that have no effect in a run; called before anything is loaded.

        Raises:
            UserError: naming the option and what to do.
        """


class TensorOptions(Options):
    """Options of every channel whose message is of tensors.

    A channel keeps `payload` as an attribute of that name and ends its `send` with
    `harness.channels.messages.to_receiver_device`.
    """

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


class TextOptions(Options):
    """Options of `t2t`; the paper's wording and budget by default (section 4.1)."""

    with_options: bool = False
    """Show the sharer the answer options as well."""
    may_answer: bool = False
    """Let the sharer give an answer."""
    max_new_tokens: int = Field(256, ge=1)
    """New tokens of a message."""


def _off(value: Any) -> Any:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False or value == "false" else value


Alignment = Annotated[Literal["auto", "off", "first", "longest"], BeforeValidator(_off)]

FusionMode = Literal["sequential", "parallel"]


class FusedOptions(TensorOptions):
    """Options of `c2c`."""

    mode: FusionMode = "sequential"
    """Several sharers: each fuser reads the cache as left by the one before, or all read the clean one."""
    alignment: Alignment = "auto"
    """Token alignment between different tokenizers; auto = off for equal vocabularies."""
    layers: Annotated[str, AfterValidator(check_layer_choice)] | None = None
    """Fused layers of the fuser: first, last, firstN, lastN, everyN, topN (by gate) or numbers; none = all."""

    def check(self, given: Given) -> None:
        """Refuses a way to combine sharers where there is one."""
        if self.mode != "sequential" and len(given.sharers) < 2:
            raise UserError(
                f"mode={self.mode} says how several sharers are combined, but there is one; leave it out or give "
                "--sharer once for each."
            )


@dataclass(frozen=True)
class ChannelEntry:
    """What the harness has to know of a channel.

    Attributes:
        name: on the command line, in records and tables.
        summary: one line for lists and help.
        build: ``module:function`` or the function, `(models, options) -> channel arms`, see
            `harness.channels.interface`; empty for a channel that is composed, and for a row that stands in every table
            by itself.
        compose: ``module:function`` or the function that makes its samples and timings of those of `reads`, without any
            model pass; see `harness.channels.routed`.
        needs: what has to be loaded beside the receiver.
        reads: channels of the same run that it is composed of.
        message: kind of message that crosses; decides which controls apply, see `harness.channels.control_registry`.
        options: pydantic model of its options.
        order: place in tables, from low to high.
        color: in pictures.
        usual: whether it takes part where no channels are named.
        rival: whether a channel with a message is judged against it, see `harness.results.comparisons`.
        yardstick: name of the comparison in which it is what others are compared with, see
            `harness.results.comparisons`; of several variants in one run the first.
        apart: comparisons in which it is not compared.
        several_sharers: whether it hears all sharers of a run; otherwise the first.
        through_engine: ``module:function`` or the function, `(engines, options, queries) -> channel arms`, that builds
            it of models behind an external serving engine, see `harness.evaluation.setup`; empty where no engine can
            run it.
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
    yardstick: str = ""
    apart: frozenset[str] = frozenset()
    several_sharers: bool = False
    through_engine: str | Callable[..., Any] = ""


_SHARER: frozenset[Need] = frozenset({"sharer"})

_OURS = (
    ChannelEntry("chance", "guessing; beside every option task, without a model pass", order=1, color="#b9bec7"),
    ChannelEntry("majority", "always the usual label; likewise", order=2, color="#9aa3b0"),
    ChannelEntry(
        RECEIVER,
        "the receiver alone",
        build="harness.channels.single:build_receiver",
        order=10,
        color="#5b6472",
        usual=True,
        rival=True,
        yardstick="to_receiver",
        apart=frozenset({"to_t2t", "to_tuned"}),
        through_engine="harness.evaluation.setup:receiver_alone",
    ),
    ChannelEntry(
        "tuned",
        "the receiver alone, fine-tuned on the same rows",
        build="harness.channels.single:build_tuned",
        needs=frozenset({"tuned"}),
        order=20,
        color="#3f7d58",
        yardstick="to_tuned",
        apart=frozenset({"to_t2t"}),
    ),
    ChannelEntry(
        SHARER,
        "the sharer alone",
        build="harness.channels.single:build_sharer",
        needs=_SHARER,
        order=30,
        color="#8a6d1f",
        usual=True,
        rival=True,
        apart=frozenset({"to_tuned"}),
        through_engine="harness.evaluation.setup:sharer_alone",
    ),
    ChannelEntry(
        "routed",
        "each question to receiver or sharer, by a score that costs no further pass",
        compose="harness.channels.routed:compose_routed",
        needs=_SHARER,
        reads=(RECEIVER, SHARER),
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
        options=TextOptions,
        order=60,
        color="#b4531a",
        usual=True,
        rival=True,
        yardstick="to_t2t",
        through_engine="harness.evaluation.setup:build_text_channel",
    ),
    ChannelEntry(
        "c2c",
        "the sharer's KV-cache is fused into the receiver's",
        build="harness.channels.c2c:build",
        needs=frozenset({"sharer", "fuser"}),
        message="tensors",
        options=FusedOptions,
        several_sharers=True,
        order=70,
        color="#1763b5",
        usual=True,
    ),
)


CHANNELS: Registry[ChannelEntry] = Registry("channel", "c2c_harness.channels", _OURS, ChannelEntry)

# Names behind lm-eval that are not the channel's own.
ALIASES = {"single": "receiver"}
