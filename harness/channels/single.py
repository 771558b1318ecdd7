"""A model that answers alone: the receiver or the sharer, and the floor that every message is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.channels.base import Context, Message, NoMessage, Query, Work
from harness.channels.common import encode_fitting, prefill
from harness.models import LM


@dataclass(frozen=True)
class Single:
    """Answers without a message."""

    answers: LM
    name: str = "receiver"
    variant: str = ""

    def prompt_length(self, query: Query) -> int:
        """Tokens of the prompt."""
        return len(encode_fitting(self.answers, query.conversation, query.room).ids)

    def forget(self) -> None:
        """Nothing is remembered."""

    def send(self, queries: Sequence[Query], work: Work) -> NoMessage:
        """Nobody sends anything."""
        return NoMessage(len(queries))

    def receive(self, queries: Sequence[Query], message: Message, work: Work) -> Context:
        """Reads the prompts."""
        prompts = [encode_fitting(self.answers, q.conversation, q.room) for q in queries]
        with work.clock.stage("receiver_prefill" if self.name != "sharer" else "sharer_prefill"):
            return prefill(self.answers, prompts, work)
