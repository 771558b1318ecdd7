"""What a channel's builder gets and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.channels.base import Answering, Channel
from harness.fusion.interface import FuserModule
from harness.models import LM

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.inference.types import Request


@dataclass(frozen=True)
class Group:
    """A channel that sends.

    Attributes:
        controls: of the run, those that it takes; builders leave them out.
        name_control: the control that the channel itself was built for, "" for none.
    """

    channel: Channel | Answering
    controls: tuple[str, ...] = ()
    name_control: str = ""


@dataclass(frozen=True)
class LoadedModels:
    """What the builders of channels choose from.

    Attributes:
        sharers: none where no channel of the run needs one.
        fusers: one a sharer, where a channel needs them.
        tuned: the receiver after fine-tuning, where a channel needs it.
        self_fuser: of the receiver with itself, where that control is asked.
        config: of the run.
        requests: what is going to be asked, where that is known.
    """

    receiver: LM
    config: RunConfig
    sharers: tuple[LM, ...] = ()
    fusers: tuple[FuserModule, ...] = ()
    tuned: LM | None = None
    self_fuser: FuserModule | None = None
    requests: Sequence[Request] = ()


def own_sharer(models: LoadedModels) -> LoadedModels:
    """The receiver as its only sharer, with the fuser that was trained for that."""
    fusers = () if models.self_fuser is None else (models.self_fuser,)
    return replace(models, sharers=(models.receiver,), fusers=fusers)


class Unsuitable(Exception):
    """A channel does not apply to what is asked; says why and what to do, in one sentence."""
