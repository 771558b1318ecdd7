"""Every control by name: what it changes, which channels can take it, and what else it needs. Imports no torch.

A control takes the content out of a message, or a part of it, and leaves the rest as it was. It is one of three:
a change of the message (of text, of tensors, or one function for each), a change of who reads it, or the channel built
of other models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.channels.registry import CHANNELS, ChannelEntry, Need
from harness.registry import Registry

Input = Literal["donor", "mean"]
FuserInUse = Literal["channel", "self", "none"]


@dataclass(frozen=True)
class ControlEntry:
    """What the harness has to know of a control; functions are given as themselves or as ``module:function``.

    Attributes:
        name: on the command line, in records and tables.
        summary: one line for lists and help.
        text: ``(TextMessage, Given) -> TextMessage``, see `harness.channels.controls`.
        tensors: ``(TensorMessage, Given) -> TensorMessage``.
        reader: ``(channel) -> channel``, which reads the message as it was sent.
        models: ``(LoadedModels) -> LoadedModels``, of which the channel is built once more, with a message of its own.
        needs: what a channel must need itself to take it, for a change of the reader or of the models.
        inputs: what a change of the message is given besides: ``donor``, another question's message, or ``mean``, the
            mean message of the task. Of a task of a single question it is left out.
        fuser: through which fuser the receiver still reads: the ``channel``'s, the run's fuser of the receiver with
            itself (``self``), or ``none``.
        order: place in lists, from low to high.
    """

    name: str
    summary: str
    text: str | Callable[..., Any] = ""
    tensors: str | Callable[..., Any] = ""
    reader: str | Callable[..., Any] = ""
    models: str | Callable[..., Any] = ""
    needs: frozenset[Need] = frozenset()
    inputs: frozenset[Input] = frozenset()
    fuser: FuserInUse = "channel"
    order: int = 100

    def __post_init__(self) -> None:
        """Refuses an entry that is not exactly one of the three.

        Raises:
            ValueError: it is none of them, or several.
        """
        kinds = [bool(self.text or self.tensors), bool(self.reader), bool(self.models)]
        if kinds.count(True) != 1:
            raise ValueError(f"Control {self.name!r} changes the message, the reader or the models; give one of them.")

    def takes(self, channel: ChannelEntry) -> bool:
        """Whether a channel can take it."""
        if self.text or self.tensors:
            return bool({"text": self.text, "tensors": self.tensors}.get(channel.message))
        return bool(channel.message) and self.needs <= channel.needs

    @property
    def of_others(self) -> bool:
        """Whether it is made of other questions' messages."""
        return bool(self.inputs)


_CONTROLS = "harness.channels.controls"
_GATED: frozenset[Need] = frozenset({"fuser"})
_OURS = (
    ControlEntry(
        "mismatched",
        "the message of another question of like length",
        text=f"{_CONTROLS}:lent_text",
        tensors=f"{_CONTROLS}:lend_messages",
        inputs=frozenset({"donor"}),
        order=10,
    ),
    ControlEntry(
        "mean",
        "the mean message of the task",
        tensors=f"{_CONTROLS}:mean",
        inputs=frozenset({"mean"}),
        order=20,
    ),
    ControlEntry(
        "zeroed", "zeros, or an empty text", text=f"{_CONTROLS}:empty_text", tensors=f"{_CONTROLS}:zeros", order=30
    ),
    ControlEntry(
        "noise",
        "noise with each feature's mean and deviation of another question's message",
        tensors=f"{_CONTROLS}:noise",
        inputs=frozenset({"donor"}),
        order=40,
    ),
    ControlEntry(
        "noise_own",
        "noise with each feature's mean and deviation of the question's own message",
        tensors=f"{_CONTROLS}:noise_own",
        order=50,
    ),
    ControlEntry(
        "closed",
        "every gate closed: the receiver alone",
        reader="harness.channels.single:receiver_of",
        needs=_GATED,
        fuser="none",
        order=60,
    ),
    ControlEntry(
        "self",
        "the receiver as its own sharer, through --self_fuser",
        models="harness.channels.interface:own_sharer",
        needs=_GATED,
        fuser="self",
        order=70,
    ),
    ControlEntry(
        "shuffled_tokens",
        "the message's tokens, or words, in another order",
        text=f"{_CONTROLS}:shuffled_words",
        tensors=f"{_CONTROLS}:shuffle_tokens",
        order=80,
    ),
)

CONTROLS: Registry[ControlEntry] = Registry("control", "c2c_harness.controls", _OURS, ControlEntry)


def channels_taking(control: str, channels: Iterable[ChannelEntry] | None = None) -> list[str]:
    """Returns the names of the channels that can take a control, of all or of the given ones."""
    entry = CONTROLS.get(control)
    known = CHANNELS.loaded() if channels is None else channels
    return [channel.name for channel in known if entry.takes(channel)]


def controls_of_self(controls: Iterable[str]) -> list[str]:
    """Returns those of the controls that read through a fuser of the receiver with itself."""
    return [name for name in controls if CONTROLS.get(name).fuser == "self"]


def controls_taken(controls: Iterable[str], channel: ChannelEntry) -> tuple[str, ...]:
    """Returns those of the controls that a channel can take, in their order."""
    return tuple(name for name in controls if CONTROLS.get(name).takes(channel))


def not_taken(controls: Sequence[str], channels: Mapping[str, ChannelEntry]) -> list[str]:
    """Says of each chosen channel with a message which controls it cannot take, such as ``mean, closed of t2t``.

    Args:
        controls: names.
        channels: chosen ones, by the names under which they were asked for.
    """
    lines = []
    for spec, channel in channels.items():
        able = controls_taken(controls, channel)
        lacking = [name for name in controls if name not in able]
        if channel.message and lacking:
            lines.append(f"{', '.join(lacking)} of {spec}")
    return lines
