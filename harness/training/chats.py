"""Chats in the forms in which they are published, read as they were meant.

Guarantees that every turn of a row reaches the chat template under a role that templates know, with the parts that
templates write (tool calls, reasoning), and that a row of which this cannot be said is left out with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError
from harness.prompts import Conversation, Turn
from harness.training.example import REASONING, Example
from harness.training.left_out import LeftOut, Reason

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
_SYSTEM = ("system", "system_prompt")


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
    return _example(turns, _tools(row.get("tools"), where), where)


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
    written = _first(turn, ("role", "from"))
    if not isinstance(written, str):
        raise _no_chat(where)
    role = ROLES.get(written.strip().casefold())
    if role is None:
        raise LeftOut(
            Reason.ROLE,
            f"{where} has a turn of the role {written[:40]!r}; rename it to one of user, assistant, system and tool.",
        )
    content = _content(turn, where)
    weight = _first(turn, _WEIGHTS)
    if role == "call":
        return _Written(Turn.of("assistant", "", {"tool_calls": _calls(content, where)}), weight)
    parts = {name: turn[name] for name in _CARRIED if turn.get(name)}
    called = turn.get("tool_calls") or turn.get("function_call")
    if called:
        parts["tool_calls"] = _calls(called, where)
    if content is None and role != "assistant":
        raise LeftOut(Reason.CONTENT, f"{where} has a turn of the role {written!r} without content; give it text.")
    return _Written(Turn.of(role, content or "", parts), weight)


def _first(turn: Row, names: Sequence[str]) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _content(turn: Row, where: str) -> str | None:
    """The text of a turn, whose parts are joined as templates join them; None where it has none."""
    if not {"content", "value", "tool_calls", "function_call", *REASONING} & turn.keys():
        raise _no_chat(where)
    content = _first(turn, ("content", "value"))
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


def _tools(value: Any, where: str) -> str:
    """Descriptions of tools as JSON text, empty where there are none."""
    if not value or (isinstance(value, str) and not value.strip()):
        return ""
    tools = _parsed(value)
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, Mapping) for t in tools):
        raise LeftOut(Reason.CALL, f"{where} has `tools` that are no list of JSON objects.")
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
