"""A row of the training data as it was meant, whatever form it was written in."""

from __future__ import annotations

from dataclasses import dataclass

from harness.prompts import Conversation, Turn

REASONING = frozenset({"reasoning_content", "reasoning", "thinking"})
LEARNED = REASONING | {"tool_calls"}  # parts that are learned even without any text


@dataclass(frozen=True)
class Example:
    """What the receiver is asked and what it should have answered.

    Attributes:
        conversation: the prompt.
        response: the answer's text, perhaps empty.
        more: the answer's other parts, such as tool calls or reasoning, as in `Turn`.
    """

    conversation: Conversation
    response: str
    more: str = ""

    @property
    def answer(self) -> Turn:
        """The turn that is learned."""
        return Turn("assistant", self.response, self.more)

    @property
    def answered(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.response.strip() or LEARNED & self.answer.parts.keys())

    @property
    def text(self) -> str:
        """Everything that is read or learned, one after the other."""
        turns = (*self.conversation.turns, self.answer)
        return "".join(part for turn in turns for part in (turn.content, turn.more)) + self.conversation.tools

    @property
    def characters(self) -> int:
        """Length of everything, to batch like with like."""
        return len(self.text)
