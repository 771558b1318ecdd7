"""A model that answers alone: the receiver or the sharer, and the floor that every message is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.channels.interface import Channel, Group, LoadedModels
from harness.channels.messages import Message, NoMessage
from harness.channels.prompt_layout import prefill, prompts_of
from harness.channels.registry import Options
from harness.inference.types import CallStats, Context, Query, Role
from harness.models.lm import LM
from harness.models.lora import parameters_of


@dataclass(frozen=True)
class Single:
    """Answers without a message.

    Attributes:
        answers: the model.
        role: whose conversation of a question it reads.
    """

    answers: LM
    name: str = "receiver"
    variant: str = ""
    role: Role = "receiver"

    def prompt_length(self, query: Query) -> int:
        """Tokens of the prompt."""
        return len(prompts_of(self.answers, [query], self.role)[0].ids)

    def forget(self) -> None:
        """Nothing is remembered."""

    def send(self, queries: Sequence[Query], work: CallStats) -> NoMessage:
        """Nobody sends anything."""
        return NoMessage(len(queries))

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        """Reads the prompts."""
        prompts = prompts_of(self.answers, queries, self.role)
        with work.clock.stage(f"{self.role}_prefill"):
            return prefill(self.answers, prompts, work)


def receiver_of(channel: Channel) -> Single:
    """The receiver of a channel without any message: nothing is padded, cut or fused."""
    return Single(channel.answers, channel.name)


def build_receiver(models: LoadedModels, _: Options) -> list[Group]:
    """The receiver alone."""
    return [Group(Single(models.receiver))]


def build_sharer(models: LoadedModels, _: Options) -> list[Group]:
    """The first sharer alone."""
    return [Group(Single(models.sharers[0], "sharer", role="sharer"))]


def build_tuned(models: LoadedModels, _: Options) -> list[Group]:
    """The fine-tuned receiver alone; says how large its adapter is."""
    assert models.tuned is not None
    adapter = models.tuned.reference.adapter
    size = "" if adapter is None else f"adapter of {parameters_of(Path(adapter)):,} parameters"
    return [Group(Single(models.tuned, "tuned", size))]
