"""Answers requests through a channel: batches by length, shared prefills, nothing lost when a batch fails.

Guarantees one answer per request, in the order of the requests. A batch that fails is halved, down to one request,
whose error then is its answer. Several arms of one channel (the message as sent and tampered with) share the
sharer's half and what the receiver reads before a message matters, so that a control costs little more than its fusion.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from harness.channels.base import Answering, Channel, Context, Message, Query, Sender, Work, answers_itself, begins
from harness.decoding import Scored, entropies, generate, score
from harness.errors import RunError, UserError
from harness.ranks import Turns

Tamper = Callable[[Message, Sequence[Query]], Message]


@dataclass(frozen=True)
class Request:
    """What is wanted for one query: the loglikelihood of options, or a decoded text.

    Attributes:
        query: the question; its conversation lists the options.
        options: texts to score; empty for decoding.
        max_new_tokens: decoding budget.
        stops: stop strings.
        exactly: decode so many tokens whatever comes, for timing at equal length.
    """

    query: Query
    options: tuple[str, ...] = ()
    max_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    exactly: int | None = None

    def __post_init__(self) -> None:
        """Lists the options in the conversation, since where the prompt ends depends on them."""
        asked = self.query.conversation
        if asked.options != self.options:
            query = replace(self.query, conversation=replace(asked, options=self.options))
            object.__setattr__(self, "query", query)

    @property
    def kind(self) -> tuple[bool, int]:
        """Requests of different kinds are never batched together."""
        return (bool(self.options), self.max_new_tokens)


@dataclass(frozen=True)
class Fault:
    """Why a request has no answer."""

    type: str
    message: str
    trace: str


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
    tamper: Tamper | None = None


@dataclass
class Budget:
    """How much goes into one batch.

    Attributes:
        batch_size: requests at most.
        max_batch_tokens: padded prompt tokens at most; None for no limit.
    """

    batch_size: int = 8
    max_batch_tokens: int | None = None


@dataclass
class Outcome:
    """Answers of one batch: `answers[arm][i]` belongs to request `indices[i]`."""

    indices: list[int]
    answers: list[list[Answer]]
    notes: list[str] = field(default_factory=list)


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
    for indices in batches(lengths, requests, budget, paired=any(a.tamper is not None for a in arms)):
        if needed & set(indices) and turns.take():
            yield _answer(sender, arms, requests, indices, work)


def batches(
    lengths: dict[int, int], requests: Sequence[Request], budget: Budget, paired: bool = False
) -> Iterator[list[int]]:
    """Groups requests of one kind and of like lengths, longest first, so that a lack of memory shows at once.

    With `paired`, neighbours that may trade messages stay together, even where that exceeds the budget by one or two.
    """
    order = sorted(lengths, key=lambda i: (requests[i].kind, -lengths[i], i))
    batch: list[int] = []
    for unit in _units(order, requests, 2 if paired else 1):
        if batch and not _joins(unit, batch, lengths, requests, budget):
            yield batch
            batch = []
        batch.extend(unit)
    if batch:
        yield batch


def _units(order: list[int], requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    for _, group in itertools.groupby(order, key=lambda i: requests[i].kind):
        same = list(group)
        units = [same[i : i + size] for i in range(0, len(same), size)]
        if len(units) > 1 and len(units[-1]) < size:
            units[-2:] = [units[-2] + units[-1]]
        yield from units


def _joins(
    unit: list[int], batch: list[int], lengths: dict[int, int], requests: Sequence[Request], budget: Budget
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
            faults.append((i, _fault(error)))
    return lengths, faults


def _answer(
    sender: Sender, arms: Sequence[Arm], requests: Sequence[Request], indices: list[int], work: Sequence[Work]
) -> Outcome:
    try:
        return Outcome(indices, _through_all(sender, arms, [requests[i] for i in indices], work))
    except (UserError, RunError):
        raise
    except Exception as error:
        free_memory()
        if len(indices) == 1:
            request = requests[indices[0]]
            return Outcome(indices, [[_alone(sender, a, request, w)] for a, w in zip(arms, work, strict=True)])
        note = f"A batch of {len(indices)} failed ({type(error).__name__}) and was halved."
    # Neighbours trade messages under a control, so that halves begin with a pair wherever both have one.
    middle = len(indices) // 2 // 2 * 2 if len(indices) > 3 else len(indices) // 2
    halves = [_answer(sender, arms, requests, part, work) for part in (indices[:middle], indices[middle:])]
    joined = [first + second for first, second in zip(*(h.answers for h in halves), strict=True)]
    return Outcome(indices, joined, [note, *halves[0].notes, *halves[1].notes])


@torch.inference_mode()
def answer_one(channel: Channel | Answering, request: Request, work: Work) -> Answer:
    """Answers one request by the channel's two halves and nothing else: what a timer may stand around."""
    return _alone(channel, Arm(channel), request, work)


def _alone(sender: Sender, arm: Arm, request: Request, work: Work) -> Answer:
    """One request through one arm: its error is its own and does not touch the other arms."""
    try:
        return _through_all(sender, [arm], [request], [work])[0][0]
    except (UserError, RunError):
        raise
    except Exception as error:
        return Answer(fault=_fault(error))


def _through_all(
    sender: Sender, arms: Sequence[Arm], requests: list[Request], work: Sequence[Work]
) -> list[list[Answer]]:
    queries = [r.query for r in requests]
    message = sender.send(queries, work[0])
    several = sum(arm.channel is sender for arm in arms) > 1
    begun = sender.begin(queries, work[0]) if several and begins(sender) else None
    answers = []
    for arm, charged in zip(arms, work, strict=True):
        heard = message if arm.tamper is None else arm.tamper(message, queries)
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


def _read_off(context: Context, requests: list[Request], message: Message, work: Work, stage: str) -> list[Answer]:
    texts = getattr(message, "texts", (None,) * len(requests))
    known = list(zip(message.payload_bytes, context.prompt_tokens, texts, strict=True))
    if requests[0].options:
        with work.clock.stage(stage):
            found = score(context, context.options, work)
        work.clock.mark("first_token")
        return [
            Answer(scored=tuple(row), entropy=_option_entropy(row), payload_bytes=b, prompt_tokens=p, message_text=t)
            for row, (b, p, t) in zip(found, known, strict=True)
        ]
    with work.clock.stage(stage):
        first = requests[0]
        written = generate(context, first.max_new_tokens, [r.stops for r in requests], work, first.exactly)
    work.clock.mark("answered")
    doubt = entropies(context.logits)  # only now known to be finite
    return [
        Answer(text=w.text, tokens=w.tokens, entropy=e, payload_bytes=b, prompt_tokens=p, message_text=t)
        for w, e, (b, p, t) in zip(written, doubt, known, strict=True)
    ]


def _option_entropy(scored: Sequence[Scored]) -> float:
    return entropies(torch.tensor([[s.loglikelihood for s in scored]]))[0]


def _fault(error: Exception) -> Fault:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)[-3:])
    return Fault(type(error).__name__, str(error)[:1000], trace[-2000:])


def free_memory() -> None:
    """Gives back what a failed batch had held."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
