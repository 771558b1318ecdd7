"""Answers requests through the arms of a channel, batch by batch, so that an error stays with its request.

Guarantees one answer per request, in the order of the requests. A batch that fails is halved, down to one request,
whose error is then its answer; the batch size that fits the memory is remembered. Memory is given back only after the
error has become data, because a traceback holds every tensor of its frames. A device that no longer computes ends the
run. The arms of one channel (the message as sent, and under controls) share the sharer's half and what the receiver
reads before the message, so a control costs little more than its fusion.

A donor, the question whose message another one gets, is fixed before anything runs. It depends on the questions of a
task, their lengths and the seed alone, not on batches, halving, or earlier answers.
"""

from __future__ import annotations

import functools
import gc
import itertools
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from harness.channels.controls import Control, check_lendable, single_query
from harness.channels.interface import Answering, Beginning, Channel, Sender
from harness.channels.messages import Message, texts_of
from harness.errors import RunError, UserError
from harness.inference.batching import Budget, Turns, join_batches, split_batch, units_of
from harness.inference.generate import read_answers
from harness.inference.types import Answer, CallStats, Context, Fault, Request

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# Names the rule in a run's identity: a run that began with other donors is not gone on with.
DONORS = "neighbours by length, equal lengths by the seed"


@dataclass(frozen=True)
class Donors:
    """The donors of a task's questions.

    Attributes:
        lengths: prompt tokens of every question that can be asked, by index.
        units: neighbours in order of length that trade messages, two or three each.
    """

    lengths: Mapping[int, int]
    units: Sequence[Sequence[int]]

    @cached_property
    def first(self) -> dict[int, int]:
        """The donor of every question that has a neighbour: in a unit each takes the message of the next one."""
        return {
            own: unit[(place + 1) % len(unit)] for unit in self.units if len(unit) > 1 for place, own in enumerate(unit)
        }

    def of(self, index: int) -> Iterator[int]:
        """Every possible donor of a question: its neighbour, then the others by how near their length is."""
        order = {one: place for place, one in enumerate(one for unit in self.units for one in unit)}
        neighbour = self.first.get(index)
        others = [one for one in order if one not in (index, neighbour)]
        others.sort(key=lambda one: (abs(self.lengths[one] - self.lengths[index]), abs(order[one] - order[index]), one))
        if neighbour is not None:
            yield neighbour
        yield from others


T = TypeVar("T")

_RESUME = "what was answered is kept, --resume goes on in a new process"


_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")

# Errors after which every further call on the device fails, in the words of the CUDA and HIP runtimes.
_LOST = (
    *("device-side assert", "illegal memory access", "illegal address", "misaligned address", "illegal instruction"),
    *("unspecified launch failure", "launch timed out", "uncorrectable ecc", "hardware stack error"),
    *("invalid program counter", "nvlink error", "device is lost", "fallen off the bus"),
)


@dataclass(frozen=True)
class Failed:
    """A call that raised.

    Attributes:
        fault: the exception, as text.
        memory: whether there was too little memory for it.
    """

    fault: Fault
    memory: bool


def attempted(call: Callable[[], T]) -> T | Failed:
    """Returns what `call` returns, or why it failed; by then everything that the failed call held is given back.

    Raises:
        UserError: as raised by `call`.
        RunError: as raised by `call`, or the device no longer computes.
    """
    try:
        return call()
    except (UserError, RunError):
        raise
    except Exception as error:
        end_if_device_is_lost(error)
        failed = Failed(fault_of(error), short_of_memory(error))
    # Only now has the exception let go of the frames in which it was raised.
    free_memory()
    return failed


def fault_of(error: Exception) -> Fault:
    """Describes an exception."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)[-3:])
    return Fault(type(error).__name__, str(error)[:1000], trace[-2000:])


def short_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed, because there was too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


@contextmanager
def ending_with_the_device(advice: str = _RESUME) -> Iterator[None]:
    """Turns the error of a device that no longer computes into one sentence; other errors pass.

    Args:
        advice: what is left and what to do.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        end_if_device_is_lost(error, advice)
        raise


def end_if_device_is_lost(error: BaseException, advice: str = _RESUME) -> None:
    """Ends the run where an error, or one that it follows from, says that the device no longer computes.

    Raises:
        RunError: it does not.
    """
    for cause in _chain(error):
        if _is_lost(cause):
            raise RunError(
                f"The device no longer computes ({type(cause).__name__}: {' '.join(str(cause).split())[:200]}); "
                f"{advice}."
            ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    follows: BaseException | None = error
    while follows is not None and id(follows) not in seen:
        yield follows
        seen.add(id(follows))
        follows = follows.__cause__ or follows.__context__


def _is_lost(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or short_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error).lower() for words in _LOST)


def free_memory() -> None:
    """Gives back what nobody holds any more, objects in reference cycles included.

    Raises:
        RunError: the device no longer computes.
    """
    gc.collect()
    if torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            end_if_device_is_lost(error)
            raise


def answers_itself(channel: Sender) -> TypeIs[Answering]:
    """Whether a channel hands back answers; one look-up, since timers stand around it."""
    return hasattr(channel, "answer")


def reads_before_message(channel: Sender) -> TypeIs[Beginning]:
    """Whether a channel reads part of a prompt before any message matters."""
    return hasattr(channel, "begin")


# Donors that are asked for their message before a question's own error is its donor's.
_DONORS_ASKED = 4

_LENT_BY_OTHER = "A lent message is that of another question of like length, since its donor's could not be sent"


class NoDonor(Exception):
    """No other question of the task has a message to lend."""


@dataclass(frozen=True)
class Arm:
    """A channel under a control.

    Attributes:
        control: name in records, "" for none.
        channel: reads the message; differs from the sending one where the control changes the reader.
        change: of the message; None leaves it as it was sent.
    """

    channel: Channel | Answering
    control: str = ""
    change: Control | None = None


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
    work: Sequence[CallStats]
    lengths: Mapping[int, int]
    donors: Donors
    budget: Budget
    notes: list[str] = field(default_factory=list)

    def only(self, arm: Arm, work: CallStats) -> _Asking:
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
        fitting = self.budget.fitting
        limit = fitting.get(self.memory_key(indices)) if fitting else None
        return limit is None or len(indices) == 1 or self.tokens(indices) <= limit


@torch.inference_mode()
def run(
    sender: Sender,
    arms: Sequence[Arm],
    requests: Sequence[Request],
    budget: Budget,
    work: Sequence[CallStats],
    wanted: Collection[int] | None = None,
    turns: Turns | None = None,
) -> Iterator[Outcome]:
    """Answers requests through every arm, a batch at a time.

    Batches are formed over all requests whatever is wanted and whoever answers, so that a run that goes on where
    another stopped, or of several processes, asks in the same company.

    Args:
        sender: the channel whose `send` makes the message that all arms get.
        arms: who reads it, and how it is changed before.
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
    lending = next((arm.change for arm in arms if arm.change is not None and arm.change.lends), None)
    units = units_of(lengths, requests, None if lending is None else lending.place)
    asking = _Asking(sender, arms, requests, work, lengths, Donors(lengths, units), budget)
    for indices in join_batches(units, lengths, requests, budget):
        if needed & set(indices) and turns.take():
            outcome = _answer(asking, indices)
            outcome.notes += asking.notes
            asking.notes.clear()
            yield outcome


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
        asking.budget.fitting[asking.memory_key(indices)] = max(map(asking.tokens, split_batch(indices)))
    return _halved(asking, indices, [f"A batch of {len(indices)} failed ({answers.fault.type}) and was halved."])


def _halved(asking: _Asking, indices: list[int], notes: list[str]) -> Outcome:
    parts = [_answer(asking, part) for part in split_batch(indices)]
    answers = [first + second for first, second in zip(*(part.answers for part in parts), strict=True)]
    return Outcome(indices, answers, [*notes, *parts[0].notes, *parts[1].notes])


@torch.inference_mode()
def answer_one(channel: Channel | Answering, request: Request, work: CallStats) -> Answer:
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
    begun = sender.begin(queries, work[0]) if several and reads_before_message(sender) else None
    answers = []
    for arm, charged in zip(asking.arms, work, strict=True):
        heard = _changed(asking, arm, message, indices, charged)
        if answers_itself(arm.channel):
            answers.append(arm.channel.answer(requests, heard, charged))
            continue
        if begun is not None and arm.channel is sender and reads_before_message(arm.channel):
            context = arm.channel.go_on(queries, heard, begun.copied(), charged)
        else:
            context = arm.channel.receive(queries, heard, charged)
        role = getattr(arm.channel, "role", "receiver")  # a channel says it where another conversation is read
        answers.append(_read_off(context, requests, heard, charged, f"{role}_decode"))
    return answers


def _changed(asking: _Asking, arm: Arm, message: Message, indices: list[int], work: CallStats) -> Message:
    if arm.change is None:
        return message
    queries = [asking.requests[i].query for i in indices]
    if not arm.change.lends:
        return arm.change(message, queries)
    donors = []
    for index in indices:
        donor = asking.donors.first.get(index)
        if donor is not None and donor in indices:
            donors.append(single_query(message, indices.index(donor)))
        else:
            donors.append(_lent(asking, index, work))
    return arm.change(message, queries, donors)


def _lent(asking: _Asking, index: int, work: CallStats) -> Message:
    """Sends the message of a question's donor again, or of the next one whose message can be sent."""
    donors = list(itertools.islice(asking.donors.of(index), _DONORS_ASKED))

    def sent(donor: int) -> Message:
        message = asking.sender.send([asking.requests[donor].query], work)
        check_lendable(message)
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


def _read_off(context: Context, requests: list[Request], message: Message, work: CallStats, stage: str) -> list[Answer]:
    answers = read_answers(context, requests, work, stage)
    sizes = message.payload_bytes if context.companion is None else [a.payload_bytes for a in answers]
    facts = zip(answers, sizes, texts_of(message), strict=True)
    return [replace(answer, payload_bytes=size, message_text=text) for answer, size, text in facts]
