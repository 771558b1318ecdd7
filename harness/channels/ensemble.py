"""Both models answer, and their probabilities are combined: the cheapest thing that could explain a channel's gain.

Nothing is trained. Over answer options each model's probabilities are normalised over the options first; decoding
combines next-token distributions, which needs one vocabulary. What crosses is the sharer's probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.channels.interface import Group, LoadedModels, Unsuitable
from harness.channels.messages import Message, NoMessage
from harness.channels.registry import EnsembleOptions
from harness.channels.single import Single
from harness.inference.types import CallStats, Context, Query
from harness.models.chat import same_vocabulary
from harness.models.lm import LM

Rule = Callable[[Tensor, Tensor], Tensor]  # log-probabilities [..., choices] of both models -> of the ensemble


def mean(ours: Tensor, theirs: Tensor) -> Tensor:
    """Log of the mean of both probabilities."""
    return torch.logaddexp(ours, theirs) - torch.log(torch.tensor(2.0))


def product(ours: Tensor, theirs: Tensor) -> Tensor:
    """Log of the normalised geometric mean of both probabilities."""
    return ((ours + theirs) / 2).log_softmax(-1)


def confident(ours: Tensor, theirs: Tensor) -> Tensor:
    """The distribution of the lower entropy; the receiver's where both are equal."""
    surer = _entropy(theirs) < _entropy(ours)
    return torch.where(surer[..., None], theirs, ours)


RULES: Mapping[str, Rule] = {"mean": mean, "product": product, "confident": confident}


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities.clamp(min=-1e30)).sum(-1)


@dataclass(frozen=True)
class Probabilities:
    """The sharer's half: its own reading of the prompts, of which only probabilities are taken.

    Their number is known when the answer is: see `harness.channels.engine`.
    """

    context: Context

    @property
    def payload_bytes(self) -> tuple[int, ...]:
        """Nothing has crossed yet."""
        return (0,) * len(self)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.context.prompt_tokens)


@dataclass(frozen=True)
class Ensemble:
    """Two models that answer together."""

    answers: LM
    sharer: LM
    rule: str = "mean"
    name: str = "ensemble"

    @property
    def variant(self) -> str:
        """How probabilities are combined."""
        return f"{self.rule} of probabilities" if self.rule != "confident" else "the surer model"

    def prompt_length(self, query: Query) -> int:
        """Tokens of the longer of both prompts."""
        return max(model.prompt_length(_asked(query)) for model in (Single(self.answers), self._sharer))

    def forget(self) -> None:
        """Nothing is remembered."""

    def send(self, queries: Sequence[Query], work: CallStats) -> Probabilities:
        """The sharer reads the prompts."""
        return Probabilities(self._read(self._sharer, queries, work))

    def receive(self, queries: Sequence[Query], message: Message, work: CallStats) -> Context:
        """The receiver reads the prompts; both contexts answer together from here on."""
        if not isinstance(message, Probabilities):
            raise TypeError(f"ensemble takes Probabilities, not {type(message).__name__}")
        own = self._read(Single(self.answers), queries, work)
        return replace(own, companion=message.context, combine=RULES[self.rule])

    @property
    def _sharer(self) -> Single:
        return Single(self.sharer, "sharer", role="sharer")

    def _read(self, model: Single, queries: Sequence[Query], work: CallStats) -> Context:
        return model.receive([_asked(query) for query in queries], NoMessage(len(queries)), work)


def _asked(query: Query) -> Query:
    """A question whose answer names a label is asked for the labels' probabilities."""
    return query if not query.labels or query.receiver.options else query.listing(query.labels)


def build(models: LoadedModels, options: EnsembleOptions) -> list[Group]:
    """The receiver with the first sharer.

    Raises:
        Unsuitable: something is decoded that has no options, and the models have two vocabularies.
    """
    open_ended = any(not request.options and not request.query.labels for request in models.requests)
    if open_ended and not same_vocabulary(models.receiver.tokenizer, models.sharers[0].tokenizer):
        raise Unsuitable(
            "an ensemble combines probabilities of answer options, or of tokens of one vocabulary; here texts without "
            "options are decoded by two vocabularies"
        )
    return [Group(Ensemble(models.receiver, models.sharers[0], options.rule))]
