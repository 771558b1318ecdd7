"""From an example to token ids: the prompt laid out as at inference, the response behind it.

Guarantees that prompts are exactly what the cache channel reads when it is evaluated (the same planner), and that
the loss falls on the response and the token that ends it, never on the prompt. What the tokenizer merges across the
seam of the two belongs to the response.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.channels.layout import Plan, Planner
from harness.errors import UserError
from harness.models import LM
from harness.prompts import Conversation, Turn, encode
from harness.seam import Ids
from harness.training.answered import answered, check_labels, check_written, turn_end
from harness.training.example import Example
from harness.training.left_out import LeftOut, Reason


@dataclass(frozen=True)
class Lesson(Plan):
    """A prompt laid out for several models, with the response behind the receiver's row.

    Attributes:
        response: ids to be predicted; all but the last also stand behind the prompt in `ids[0]`.
    """

    response: tuple[int, ...] = ()

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, inserted pads included."""
        return len(self.ids[0]) - len(self.response) + 1

    @property
    def padded(self) -> bool:
        """Whether alignment put pads into the receiver's row."""
        return not all(self.real[0])

    @property
    def cuts(self) -> tuple[int, ...]:
        """As for the prompt; behind pads also before the response, which sees them while the prompt does not."""
        inner = {*super().cuts, self.prompt_length} if self.padded else super().cuts
        return tuple(sorted(inner))


def lesson(planner: Planner, example: Example, max_length: int, *, whole: bool = False) -> Lesson:
    """Lays an example out.

    Args:
        planner: of the receiver and its sharers.
        example: prompt and answer.
        max_length: tokens of the prompt and of the part of the response that is read; the rest is cut.
        whole: leave an example out whose response would be cut.

    Raises:
        UserError: the models cannot be laid out side by side at all.
        LeftOut: it cannot be learned from.
    """
    if not example.answered:
        raise LeftOut(Reason.NO_ANSWER, "it has no answer to learn.")
    readers = (planner.receiver, *(planner.sharers if planner.strategy != "off" else ()))
    try:
        check_written(readers, example)
        plan = planner.plan(answered(planner.receiver, example.conversation, example.answer))
    except LeftOut:
        raise
    except UserError as error:
        raise LeftOut(Reason.TEMPLATE, str(error)) from error
    labels = turn_end(planner.receiver, plan.options[0])
    check_labels(planner.receiver, labels, example.answer)
    return _cut(plan, labels, max_length, whole)


def _cut(plan: Plan, labels: Ids, max_length: int, whole: bool) -> Lesson:
    """The lesson of a prompt and its response, within `max_length` tokens."""
    room = max_length - len(plan.ids[0])
    if whole and room < len(labels):
        raise LeftOut(Reason.WHOLE_TOO_LONG, f"it has more than {max_length} tokens.")
    if room < 1:
        raise LeftOut(Reason.TOO_LONG, f"its prompt has {len(plan.ids[0])} tokens of {max_length} that it may have.")
    if not plan.fused:
        raise LeftOut(Reason.UNFUSED, "its prompt has no token that is fused.")
    response = labels[:room]
    read = response[:-1]
    return Lesson(
        ids=(plan.ids[0] + read, *plan.ids[1:]),
        real=(plan.real[0] + (True,) * len(read), *plan.real[1:]),
        fused=plan.fused,
        elsewhere=plan.elsewhere,
        at_once=plan.at_once,
        response=response,
    )


def response_ids(lm: LM, conversation: Conversation, response: str) -> Ids:
    """Token ids of a response up to and with the token that ends the turn, as they follow the conversation.

    Raises:
        UserError: the chat template refuses the chat.
        LeftOut: the ids do not decode to the response.
    """
    answer = Turn("assistant", response)
    labels = turn_end(lm, encode(lm, answered(lm, conversation, answer)).options[0])
    check_labels(lm, labels, answer)
    return labels
