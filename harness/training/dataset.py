"""Rows of a data set as a conversation and the response to it, or the reason why a row is left out.

A row is read as a chat, in any of the forms in which chats are published, or as a question document; anything else is
refused by its number before anything is computed. Guarantees that every turn reaches the chat template under a role
that templates know, with the parts that templates write (tool calls, reasoning).

A row for which this cannot be ensured is left out with its reason and never ends a run. Reasons are a closed list, so
every process counts alike. The reading of a row is not kept, so that half a million rows take no memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from harness.benchmarks.views import KEYS as VIEW_KEYS
from harness.errors import UserError
from harness.models.chat import Conversation, Turn


class Reason(Enum):
    """What is wrong with a row; the value completes "3 rows left out: 3 ..."."""

    NO_ANSWER = "without an answer to learn"
    ROLE = "with a role that is not known"
    CONTENT = "with content that is no text"
    WEIGHT = "with a weight other than 0 and 1"
    CALL = "with a tool or a tool call that cannot be read"
    SYSTEM = "with two different system prompts"
    CHARACTER = "with half a character"
    TEMPLATE = "refused by a chat template"
    PARTS = "with parts that a chat template does not write"
    LABELS = "whose labels do not decode to the response"
    TOO_LONG = "with a prompt that leaves no room for the response"
    WHOLE_TOO_LONG = "longer than the limit as a whole"
    UNFUSED = "without a token to fuse"


class LeftOut(UserError):
    """A row cannot be learned from; the run goes on without it and counts it.

    Attributes:
        reason: under which it is counted.
    """

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def count_reasons(reasons: Iterable[Reason]) -> list[int]:
    """How often each reason was given, in the order of `Reason`."""
    given = list(reasons)
    return [given.count(reason) for reason in Reason]


def left_out_summary(counts: Mapping[str, int]) -> str:
    """Says how many rows were left out for which reasons.

    Args:
        counts: rows by the name of their reason.
    """
    parts = [f"{counts[reason.name]} {reason.value}" for reason in Reason if counts.get(reason.name)]
    return f"{sum(counts.values())} rows left out: {', '.join(parts)}"


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


Row = Mapping[str, Any]

FIELDS = ("messages", "conversations", "conversation")

_NAMES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "bing", "bard", "claude", "ai"),
    "system": ("system", "developer"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "ipython"),
    "call": ("function_call", "tool_call"),
}

ROLES = {name: role for role, names in _NAMES.items() for name in names}

_CARRIED = (*sorted(REASONING), "tool_call_id", "name")

_WEIGHTS = ("weight", "loss", "train", "training", "trainable")

_MEDIA = ("image", "images", "video", "videos", "audio", "audios")

_SYSTEM = ("system", "system_prompt", "system_message", "systemPrompt")


@dataclass(frozen=True)
class _Written:
    """A turn with the weight that it is learned with."""

    turn: Turn
    weight: Any


def is_chat(row: Row) -> bool:
    """Whether a row has one of the fields that hold chats."""
    return any(field in row for field in FIELDS)


def read_chat(row: Row, where: str, as_released: bool = False) -> Example:
    """Reads a row whose turns stand in one of `FIELDS`.

    Args:
        row: as it was published.
        where: names the row in errors.
        as_released: drop system turns and strip user turns, as the paper's trainer does.

    Raises:
        UserError: if it is no chat.
        LeftOut: if it is one that cannot be read as it was meant.
    """
    _refuse_media(row, where)
    turns = [_turn(turn, where) for turn in _turns_of(row, where)]
    turns = _with_system(row, turns, where)
    if as_released:
        turns = [_stripped(one) for one in turns if one.turn.role != "system"]
    return _example(turns, _tools(row, where), where)


def _turns_of(row: Row, where: str) -> Sequence[Any]:
    """The first field that holds turns; an empty list where all are empty."""
    filled: Any = next((row[field] for field in FIELDS if row.get(field)), [])
    if isinstance(filled, Mapping) or not isinstance(filled, Sequence):
        raise _no_chat(where)
    return filled


def _no_chat(where: str) -> UserError:
    return UserError(f"{where} is no chat: each turn needs role and content (or from and value).")


def _turn(turn: Any, where: str) -> _Written:
    if not isinstance(turn, Mapping):
        raise _no_chat(where)
    _refuse_media(turn, where)
    written = _agreed(turn, ("role", "from"), Reason.ROLE, where, _role)
    if not isinstance(written, str):
        raise _no_chat(where)
    role = _role(written)
    if role is None:
        raise LeftOut(
            Reason.ROLE,
            f"{where} has a turn of the role {written[:40]!r}; rename it to one of user, assistant, system and tool.",
        )
    content = _content(turn, where)
    weight = _agreed(turn, _WEIGHTS, Reason.WEIGHT, where)
    if role == "call":
        return _Written(Turn.of("assistant", "", {"tool_calls": _calls(content, where)}), weight)
    parts = {name: turn[name] for name in _CARRIED if turn.get(name)}
    called = turn.get("tool_calls") or turn.get("function_call")
    if called:
        parts["tool_calls"] = _calls(called, where)
    if content is None and role != "assistant":
        raise LeftOut(Reason.CONTENT, f"{where} has a turn of the role {written!r} without content; give it text.")
    return _Written(Turn.of(role, content or "", parts), weight)


def _role(written: Any) -> str | None:
    return ROLES.get(str(written).strip().casefold())


def _first(turn: Row, names: Sequence[str]) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _agreed(
    turn: Row, names: Sequence[str], reason: Reason, where: str, read: Callable[[Any], Any] = lambda value: value
) -> Any:
    """The value of a field under any of its names; under two of them it has to be the same."""
    given = [name for name in names if turn.get(name) is not None]
    if other := next((name for name in given[1:] if read(turn[name]) != read(turn[given[0]])), None):
        raise LeftOut(reason, f"{where} has a turn whose {given[0]} and {other} contradict each other; keep one.")
    return turn[given[0]] if given else None


def _content(turn: Row, where: str) -> str | None:
    """The text of a turn, whose parts are joined as templates join them; None where it has none."""
    if not {"content", "value", "tool_calls", "function_call", *REASONING} & turn.keys():
        raise _no_chat(where)
    content = _agreed(turn, ("content", "value"), Reason.CONTENT, where)
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        raise _no_chat(where)
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise _no_chat(where)
    kind, text = part.get("type") or "text", part.get("text")
    if kind not in {"text", "input_text", "output_text"} or not isinstance(text, str):
        raise LeftOut(Reason.CONTENT, f"{where} has content of the type {kind!r:.40}; only text can be learned from.")
    return text


def _refuse_media(holder: Row, where: str) -> None:
    named = next((name for name in _MEDIA if holder.get(name)), None)
    if named is not None:
        raise LeftOut(Reason.CONTENT, f"{where} comes with {named}; only text can be learned from.")


def _parsed(value: Any) -> Any:
    """A value that may be written as JSON text; None for text that is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls in the form that chat templates take: arguments as an object, not as JSON text."""
    found = _parsed(value)
    calls = [found] if isinstance(found, Mapping) else found
    if not isinstance(calls, Sequence) or isinstance(calls, str) or not calls:
        raise _unreadable(where, value)
    return [_call(call, where) for call in calls]


def _call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise _unreadable(where, call)
    function = call.get("function") or call
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _unreadable(where, call)
    written = _first(function, ("arguments", "parameters"))
    arguments = {} if written in (None, "") else _parsed(written)
    if not isinstance(arguments, Mapping):
        raise _unreadable(where, call)
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _unreadable(where: str, value: Any) -> LeftOut:
    return LeftOut(
        Reason.CALL, f"{where} has the tool call {value!r:.60}; give it a name and arguments that are a JSON object."
    )


def _tools(row: Row, where: str) -> str:
    """Descriptions of tools, or of functions as older chats have them, as JSON text; empty where there are none."""
    value = row.get("tools") or row.get("functions")
    if not value or (isinstance(value, str) and not value.strip()):
        return ""
    tools = _parsed(value)
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, Mapping) for t in tools):
        raise LeftOut(Reason.CALL, f"{where} has `tools` that are no list of JSON objects.")
    if not row.get("tools"):
        tools = [{"type": "function", "function": function} for function in tools]
    return json.dumps(tools, ensure_ascii=False, default=str) if tools else ""


def _with_system(row: Row, turns: list[_Written], where: str) -> list[_Written]:
    """Puts a system prompt that stands beside the turns in front of them."""
    beside = _first(row, _SYSTEM)
    if beside is None or (isinstance(beside, str) and not beside.strip()):
        return turns
    if not isinstance(beside, str):
        raise LeftOut(Reason.CONTENT, f"{where} has a system prompt that is no text; give it text.")
    written = [one.turn.content for one in turns if one.turn.role == "system"]
    if not written:
        return [_Written(Turn("system", beside), None), *turns]
    if any(text.strip() != beside.strip() for text in written):
        raise LeftOut(
            Reason.SYSTEM, f"{where} has one system prompt beside its turns and another among them; keep one."
        )
    return turns


def _stripped(one: _Written) -> _Written:
    turn = one.turn
    return _Written(replace(turn, content=turn.content.strip()), one.weight) if turn.role == "user" else one


def _example(turns: list[_Written], tools: str, where: str) -> Example:
    """The last answer that has a weight is what is learned; whatever follows it is dropped."""
    while turns and (turns[-1].turn.role != "assistant" or turns[-1].weight in (0, "0")):
        turns = turns[:-1]
    conversation = Conversation(tuple(one.turn for one in turns), tools=tools)
    if len(turns) < 2:
        return Example(conversation, "")
    last = turns[-1]
    if last.weight not in (None, 1, "1"):
        raise LeftOut(Reason.WEIGHT, f"{where} has the weight {last.weight!r:.40}; a turn is learned (1) or not (0).")
    asked = Conversation(conversation.turns[:-1], tools=tools)
    return Example(asked, last.turn.content, last.turn.more)


@dataclass(frozen=True)
class Corpus:
    """The rows of a training run.

    Attributes:
        rows: as they were read.
        fingerprint: says whether two runs read the same.
        wording: turns a question document into a prompt, where rows are such documents.
        as_released: read chats as the paper's trainer does, see `read_chat`.
        tested: how many rows are questions that the task of the wording asks.
    """

    rows: Sequence[Row]
    fingerprint: str
    wording: Callable[[Row], str] | None = None
    as_released: bool = False
    tested: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Reads one row.

        Raises:
            UserError: if it is in no known form.
            LeftOut: if it holds what cannot be learned from.
        """
        example = self._example(index)
        try:
            example.text.encode()
        except UnicodeEncodeError as error:
            seen = f"{error.object[error.start]!a}"
            raise LeftOut(
                Reason.CHARACTER, f"{_row(index)} holds {seen}, which is half a character; take it out."
            ) from error
        return example

    def check(self) -> None:
        """Reads every row once, so that a row in no known form is refused before anything is computed.

        Raises:
            UserError: naming the first such row.
        """
        for index in range(len(self)):
            with suppress(LeftOut):
                self[index]

    def _example(self, index: int) -> Example:
        row = self.rows[index]
        if given := [key for key in VIEW_KEYS if row.get(key)]:
            raise UserError(f"{_row(index)} has {given[0]!r}, but {ONE_VIEW}.")
        if self.wording is not None and {"question", "key"} <= row.keys():
            return _question(row, self.wording, _row(index))
        if is_chat(row):
            return read_chat(row, _row(index), self.as_released)
        raise UserError(
            f"{_row(index)} has the fields {', '.join(sorted(row))[:100]}; it needs `messages` or "
            "`conversations`, or `question` and `key` together with --prompt-of TASK."
        )


ONE_VIEW = "in training receiver and sharer read the same; leave it out, or put the text into the turns"


def _row(index: int) -> str:
    return f"Row {index} of the training data"


def _question(row: Row, wording: Callable[[Row], str], where: str) -> Example:
    """Its key is learned; a row whose key is kept secret teaches nothing."""
    key, labels = row["key"], row.get("labels")
    if key is not None and (not isinstance(key, str) or (labels is not None and key not in labels)):
        raise UserError(f"{where} has the key {key!r:.40}; give one of its labels, or null.")
    try:
        text = wording(row)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{where} cannot be asked as --prompt-of says ({error!r:.100}); "
            "give it the fields of that task's documents."
        ) from error
    return Example(Conversation((Turn("user", text),)), key or "")
