"""From an example to token ids: the prompt laid out as at inference, the response behind it.

Guarantees that prompts are exactly what the cache channel reads when it is evaluated (the same planner), and that
the loss falls on the response and the token that ends it, never on the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import jinja2

from harness.channels.layout import Plan, Planner
from harness.models import LM
from harness.prompts import TEMPLATE_ARGUMENTS, Conversation, continuation, render
from harness.training.corpus import Example


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


def lesson(planner: Planner, example: Example, max_length: int) -> Lesson | None:
    """Lays an example out; None if there is nothing to learn from within `max_length` tokens."""
    if not example.response:
        return None
    plan = planner.plan(example.conversation)
    room = max_length - len(plan.ids[0])
    response = response_ids(planner.receiver, example.conversation, example.response)[: max(room, 0)]
    if not response or not plan.fused:
        return None
    read = response[:-1]
    return Lesson(
        ids=(plan.ids[0] + read, *plan.ids[1:]),
        real=(plan.real[0] + (True,) * len(read), *plan.real[1:]),
        fused=plan.fused,
        response=response,
    )


def response_ids(lm: LM, conversation: Conversation, response: str) -> tuple[int, ...]:
    """Token ids of a response up to and with the token that ends the turn."""
    ids = continuation(lm, conversation, _ended(lm, conversation, response))
    end = next((place for place, token in enumerate(ids) if token in lm.stop_ids), len(ids) - 1)
    return ids[: end + 1]


def _ended(lm: LM, conversation: Conversation, response: str) -> str:
    """The response as the chat template closes it, else with the end token as it is."""
    prompt, plain = render(lm, conversation), response + (lm.tokenizer.eos_token or "")
    messages = [*conversation.messages, {"role": "assistant", "content": response}]
    try:
        whole = str(lm.tokenizer.apply_chat_template(messages, tokenize=False, **TEMPLATE_ARGUMENTS))
    except jinja2.TemplateError:
        return plain
    return whole.removeprefix(prompt) if whole.startswith(prompt) else plain
