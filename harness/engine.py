"""Answers requests through a channel: batches by length, shared prefills, nothing lost when a batch fails.

Guarantees one answer per request, in the order of the requests. A batch that fails is halved, down to one request,
whose error then is its answer; no other request loses its own. Several arms of one channel (the message as sent and
tampered with) share the sharer's half and what the receiver reads before a message matters, so that a control costs
little more than its fusion. The size that fits the memory is remembered once one did not.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from harness.attempts import Failed, Fault, attempted, fault_of
from harness.channels.base import Answering, Channel, Context, Message, Query, Sender, Work, answers_itself, begins
from harness.decoding import Scored, combined, entropies, generate, score
from harness.donors import Donors
from harness.errors import UserError
from harness.ranks import Turns

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# What an ensemble's sharer sends is a float32 probability for each option or word.
_PROBABILITY_BYTES = 4

Tamper = Callable[[Message, Sequence[Query]], Message]
# Donors that are asked for their message before a question's own error is its donor's.
_DONORS_ASKED = 4
_LENT_BY_OTHER = "A lent message is that of another question of like length, since its donor's could not be sent"


class Trade(Protocol):
    """A control that gives each question the message of another one."""

    def __call__(self, message: Message, lent: Sequence[tuple[Message, int]], queries: Sequence[Query]) -> Message:
        """Returns the tampered message; `lent` says for each question in which message, and where, its donor's is."""

    def place(self, query: Query) -> int:
        """Orders questions whose prompts have the same length."""

    def check(self, message: Message) -> None:
        """Raises an exception where nothing can be lent of a message."""


def trades(tamper: Tamper | Trade | None) -> TypeIs[Trade]:
    """Whether a control needs the message of another question."""
    return hasattr(tamper, "place")


class NoDonor(Exception):
    """No other question of the task has a message to lend."""


@dataclass(frozen=True)
class Request:
    """What is wanted for one query: the loglikelihood of options, or a decoded text.

    Attributes:
        query: the question; its conversation lists the options.
        options: texts to score; empty for decoding.
        max_new_tokens: decoding budget.
        max_length: prompt and answer together at most, in place of `max_new_tokens`.
        stops: stop strings.
        exactly: decode so many tokens whatever comes, for timing at equal length.
    """

    query: Query
    options: tuple[str, ...] = ()
    max_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    exactly: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Lists the options in the conversation, since where the prompt ends depends on them."""
        if self.query.receiver.options != self.options:
            object.__setattr__(self, "query", self.query.listing(self.options))

    def new_tokens(self, prompt_tokens: int, holds: int) -> int:
        """Decoding budget behind a prompt of so many tokens, in a context that holds `holds`.

        Raises:
            ValueError: `max_length` leaves no room for an answer.
        """
        if self.max_length is None:
            return self.max_new_tokens
        left = min(self.max_length, holds) - prompt_tokens
        if left < 1:
            raise ValueError(
                f"max_length is {self.max_length} and counts the prompt, which has {prompt_tokens} tokens already; "
                "give a larger one, or max_gen_toks, which counts the answer alone."
            )
        return left

    @property
    def kind(self) -> tuple[bool, int]:
        """Requests of different kinds are never batched together."""
        return (bool(self.options), self.max_new_tokens)


@dataclass(frozen=True)
class Answer:
    """What came back for one request.

    Attributes:
        scored: one an option, for requests with options.
        text: what was decoded, otherwise.
        tokens: ids of what was decoded.
        entropy: nats; over the options, or of the first answer token.
        message_text: what the sharer wrote, where the message is text.
        fault: set exactly when there is no answer.
    """

    scored: tuple[Scored, ...] = ()
    text: str | None = None
    tokens: tuple[int, ...] = ()
    entropy: float | None = None
    payload_bytes: int = 0
    prompt_tokens: int = 0
    message_text: str | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Arm:
    """A channel under a control; `tamper` None leaves the message as it was sent.

    Attributes:
        control: name in records, "" for none.
        channel: reads the message; differs from the sending one where the control changes the reader.
    """

    channel: Channel | Answering
    control: str = ""
    tamper: Tamper | Trade | None = None


@dataclass
class Budget:
    """How much goes into one batch.

    Attributes:
        batch_size: requests at most.
        max_batch_tokens: padded prompt tokens at most; None for no limit.
        fitting: by channel, number of arms and kind of request: tokens of the largest part of a batch that did not
            fit the memory; a larger batch is divided before it is tried.
    """

    batch_size: int = 8
    max_batch_tokens: int | None = None
    fitting: dict[Any, int] = field(default_factory=dict)


@dataclass
class Outcome:
    """Answers of one batch: `answers[arm][i]` belongs to request `indices[i]`."""

    indices: list[int]
    answers: list[list[Answer]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Asking:
    """A call of `run`: what all its batches have in common."""

    sender: Sender
    arms: Sequence[Arm]
    requests: Sequence[Request]
    work: Sequence[Work]
    lengths: Mapping[int, int]
    donors: Donors
    budget: Budget
    notes: list[str] = field(default_factory=list)

    def only(self, arm: Arm, work: Work) -> _Asking:
        """The same for one arm."""
        return replace(self, arms=[arm], work=[work])

    def tokens(self, indices: Sequence[int]) -> int:
        """Tokens of a batch, padded, with room for its answers."""
        longest = max(self.lengths[i] for i in indices)
        return len(indices) * (longest + self.requests[indices[0]].max_new_tokens)

    def memory_key(self, indices: Sequence[int]) -> Any:
        """What batches have in common whose memory is alike."""
        return (self.sender.name, len(self.arms), self.requests[indices[0]].kind)

    def fits(self, indices: Sequence[int]) -> bool:
        """Whether a batch may fit the memory, for all that is known."""
        limit = self.budget.fitting.get(self.memory_key(indices))
        return limit is None or len(indices) == 1 or self.tokens(indices) <= limit


@torch.inference_mode()
def run(
    sender: Sender,
    arms: Sequence[Arm],
    requests: Sequence[Request],
    budget: Budget,
    work: Sequence[Work],
    wanted: Collection[int] | None = None,
    turns: Turns | None = None,
) -> Iterator[Outcome]:
    """Answers requests through every arm, a batch at a time.

    Batches are formed over all requests whatever is wanted and whoever answers, so that a run that goes on where
    another stopped, or of several processes, asks in the same company.

    Args:
        sender: the channel whose `send` makes the message that all arms get.
        arms: who reads it and how it is tampered with.
        requests: what is asked, all of one task.
        budget: how large batches are.
        work: charged, one an arm; the first pays for the sharer.
        wanted: indices of requests that need an answer; batches without any are left out. None: all.
        turns: says of each batch in which something is wanted whether it is this process's. None: all are.
    """
    turns = turns or Turns()
    needed = set(range(len(requests))) if wanted is None else set(wanted)
    lengths, faults = _measure(sender, requests)
    lost = [(i, f) for i, f in faults if i in needed]
    if lost and turns.take():
        yield Outcome([i for i, _ in lost], [[Answer(fault=f) for _, f in lost]] * len(arms))
    trade = next((a.tamper for a in arms if trades(a.tamper)), None)
    units = _units(lengths, requests, trade)
    asking = _Asking(sender, arms, requests, work, lengths, Donors(lengths, units), budget)
    for indices in _joined(units, lengths, requests, budget):
        if needed & set(indices) and turns.take():
            outcome = _answer(asking, indices)
            outcome.notes += asking.notes
            asking.notes.clear()
            yield outcome


def batches(
    lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget, trade: Trade | None = None
) -> Iterator[list[int]]:
    """Groups requests of one kind and of like lengths, longest first, so that a lack of memory shows at once.

    Neighbours that trade messages stay together, even where that exceeds the budget by one or two: apart, each would
    have its donor's message sent again.
    """
    return _joined(_units(lengths, requests, trade), lengths, requests, budget)


def _units(lengths: Mapping[int, int], requests: Sequence[Request], trade: Trade | None) -> list[list[int]]:
    """All requests in the order in which they are asked; those of one unit trade messages."""
    place = {i: 0 if trade is None else trade.place(requests[i].query) for i in lengths}
    order = sorted(lengths, key=lambda i: (requests[i].kind, -lengths[i], place[i], i))
    size = 1 if trade is None else 2
    units: list[list[int]] = []
    for _, group in itertools.groupby(order, key=lambda i: requests[i].kind):
        same = list(group)
        own = [same[i : i + size] for i in range(0, len(same), size)]
        if len(own) > 1 and len(own[-1]) < size:
            own[-2:] = [own[-2] + own[-1]]
        units += own
    return units


def _joined(
    units: Iterable[list[int]], lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget
) -> Iterator[list[int]]:
    batch: list[int] = []
    for unit in units:
        if batch and not _joins(unit, batch, lengths, requests, budget):
            yield batch
            batch = []
        batch.extend(unit)
    if batch:
        yield batch


def _joins(
    unit: list[int], batch: list[int], lengths: Mapping[int, int], requests: Sequence[Request], budget: Budget
) -> bool:
    together = len(batch) + len(unit)
    if together > budget.batch_size or requests[unit[0]].kind != requests[batch[0]].kind:
        return False
    limit = budget.max_batch_tokens
    return limit is None or lengths[batch[0]] * together <= limit


def _measure(channel: Sender, requests: Iterable[Request]) -> tuple[dict[int, int], list[tuple[int, Fault]]]:
    lengths, faults = {}, []
    for i, request in enumerate(requests):
        try:
            lengths[i] = channel.prompt_length(request.query)
        except UserError:
            raise
        except Exception as error:
            faults.append((i, fault_of(error)))
    return lengths, faults


def _answer(asking: _Asking, indices: list[int]) -> Outcome:
    if not asking.fits(indices):
        return _halved(asking, indices, [])
    answers = attempted(lambda: _through_all(asking, indices))
    if not isinstance(answers, Failed):
        return Outcome(indices, answers)
    if len(indices) == 1:
        pairs = zip(asking.arms, asking.work, strict=True)
        alone = [_alone(asking.only(arm, work), indices[0]) for arm, work in pairs]
        if len(alone) == 1 and alone[0].fault is not None:
            alone = [Answer(fault=answers.fault)]  # the second attempt may fail from what the first one left behind
        return Outcome(indices, [[answer] for answer in alone])
    if answers.memory:
        asking.budget.fitting[asking.memory_key(indices)] = max(map(asking.tokens, _halves(indices)))
    return _halved(asking, indices, [f"A batch of {len(indices)} failed ({answers.fault.type}) and was halved."])


def _halves(indices: list[int]) -> tuple[list[int], list[int]]:
    # Neighbours trade messages under a control, so that halves begin with a pair wherever both have one.
    middle = len(indices) // 2 // 2 * 2 if len(indices) > 3 else len(indices) // 2
    return indices[:middle], indices[middle:]


def _halved(asking: _Asking, indices: list[int], notes: list[str]) -> Outcome:
    halves = [_answer(asking, part) for part in _halves(indices)]
    joined = [first + second for first, second in zip(*(h.answers for h in halves), strict=True)]
    return Outcome(indices, joined, [*notes, *halves[0].notes, *halves[1].notes])


@torch.inference_mode()
def answer_one(channel: Channel | Answering, request: Request, work: Work) -> Answer:
    """Answers one request by the channel's two halves and nothing else: what a timer may stand around."""
    asking = _Asking(channel, [Arm(channel)], [request], [work], {0: 0}, Donors({0: 0}, [[0]]), Budget())
    return _alone(asking, 0)


def _alone(asking: _Asking, index: int) -> Answer:
    """One request through one arm: its error is its own and does not touch the other arms."""
    answers = attempted(lambda: _through_all(asking, [index]))
    return Answer(fault=answers.fault) if isinstance(answers, Failed) else answers[0][0]


def _through_all(asking: _Asking, indices: list[int]) -> list[list[Answer]]:
    sender, work = asking.sender, asking.work
    requests = [asking.requests[i] for i in indices]
    queries = [r.query for r in requests]
    message = sender.send(queries, work[0])
    several = sum(arm.channel is sender for arm in asking.arms) > 1
    begun = sender.begin(queries, work[0]) if several and begins(sender) else None
    answers = []
    for arm, charged in zip(asking.arms, work, strict=True):
        heard = _tampered(asking, arm, message, indices, charged)
        if answers_itself(arm.channel):
            answers.append(arm.channel.answer(requests, heard, charged))
            continue
        if begun is not None and arm.channel is sender and begins(arm.channel):
            context = arm.channel.go_on(queries, heard, begun.copied(), charged)
        else:
            context = arm.channel.receive(queries, heard, charged)
        stage = "sharer_decode" if arm.channel.name == "sharer" else "receiver_decode"
        answers.append(_read_off(context, requests, heard, charged, stage))
    return answers


def _tampered(asking: _Asking, arm: Arm, message: Message, indices: list[int], work: Work) -> Message:
    if arm.tamper is None:
        return message
    queries = [asking.requests[i].query for i in indices]
    if not trades(arm.tamper):
        return arm.tamper(message, queries)
    lent = []
    for index in indices:
        donor = asking.donors.first.get(index)
        if donor is not None and donor in indices:
            lent.append((message, indices.index(donor)))
        else:
            lent.append((_lent(asking, arm.tamper, index, work), 0))
    return arm.tamper(message, lent, queries)


def _lent(asking: _Asking, trade: Trade, index: int, work: Work) -> Message:
    """Sends the message of a question's donor again, or of the next one whose message can be sent."""
    donors = list(itertools.islice(asking.donors.of(index), _DONORS_ASKED))

    def sent(donor: int) -> Message:
        message = asking.sender.send([asking.requests[donor].query], work)
        trade.check(message)
        return message

    if not donors:
        raise NoDonor("No other question of the task fits the context, so that none has a message to lend.")
    if len(asking.arms) > 1:  # a lack of memory may be the other arms'
        return sent(donors[0])
    lost: list[Failed] = []
    for donor in donors:
        message = attempted(functools.partial(sent, donor))
        if not isinstance(message, Failed):
            if lost:
                asking.notes.append(f"{_LENT_BY_OTHER} ({lost[0].fault.type}: {lost[0].fault.message[:200]}).")
            return message
        lost.append(message)
    return sent(donors[0])  # whose own error is the one to record


def _read_off(context: Context, requests: list[Request], message: Message, work: Work, stage: str) -> list[Answer]:
    if requests[0].options:
        answers = _scored(context, work, stage)
        work.clock.mark("first_token")
    elif all(context.options):
        answers = _named(_scored(context, work, stage), requests, work)
    else:
        answers = _decoded(context, requests, work, stage)
    texts = getattr(message, "texts", (None,) * len(requests))
    sizes = message.payload_bytes if context.companion is None else [a.payload_bytes for a in answers]
    facts = zip(sizes, context.prompt_tokens, texts, strict=True)
    return [
        replace(answer, payload_bytes=b, prompt_tokens=p, message_text=t)
        for answer, (b, p, t) in zip(answers, facts, strict=True)
    ]


def _scored(context: Context, work: Work, stage: str) -> list[Answer]:
    """Answers with the loglikelihood of every option; two models' are combined over the options."""
    with work.clock.stage(stage):
        rows = score(context, context.options, work)
        if context.companion is not None and context.combine is not None:
            others = score(context.companion, context.companion.options, work)
            rows = [_combined_row(context.combine, *pair) for pair in zip(rows, others, strict=True)]
    crossing = [len(row) * _PROBABILITY_BYTES for row in rows]
    return [
        Answer(scored=tuple(row), entropy=_option_entropy(row), payload_bytes=size)
        for row, size in zip(rows, crossing, strict=True)
    ]


def _combined_row(
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ours: Sequence[Scored], theirs: Sequence[Scored]
) -> list[Scored]:
    both = [torch.tensor([s.loglikelihood for s in row]).log_softmax(-1) for row in (ours, theirs)]
    return [Scored(float(value), greedy=False) for value in combine(both[0], both[1])]


def _named(scored: list[Answer], requests: list[Request], work: Work) -> list[Answer]:
    """Answers option questions that ask for text with the label of the highest probability."""
    for mark in ("first_token", "answered"):
        work.clock.mark(mark)
    best = [max(range(len(a.scored)), key=lambda i: a.scored[i].loglikelihood) for a in scored]
    return [replace(a, scored=(), text=r.query.labels[i]) for a, r, i in zip(scored, requests, best, strict=True)]


def _decoded(context: Context, requests: list[Request], work: Work, stage: str) -> list[Answer]:
    holds, stops = context.lm.max_length, [r.stops for r in requests]
    budgets = [r.new_tokens(n, holds) for r, n in zip(requests, context.prompt_tokens, strict=True)]
    with work.clock.stage(stage):
        written = generate(context, budgets, stops, work, requests[0].exactly)
    work.clock.mark("answered")
    parts = [context.logits] if context.companion is None else [context.logits, context.companion.logits]
    logits = combined(context, parts)
    doubt = entropies(logits)  # only now known to be finite
    per_token = logits.shape[-1] * _PROBABILITY_BYTES
    return [
        Answer(text=w.text, tokens=w.tokens, entropy=e, payload_bytes=len(w.tokens) * per_token)
        for w, e in zip(written, doubt, strict=True)
    ]


def _option_entropy(scored: Sequence[Scored]) -> float:
    return entropies(torch.tensor([[s.loglikelihood for s in scored]]))[0]
