"""What a chat template makes of an answer, as the text or the token ids that follow the prompt.

Guarantees that an answer is learned as the template writes it, reasoning and tool calls included, up to the end of
the turn, and that an answer is refused of which the template or the tokenizer would lose a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from harness.errors import UserError
from harness.models import LM
from harness.prompts import Conversation, Encoded, Turn, continued, render, render_answered, tokenize
from harness.seam import Ids, common
from harness.training.example import LEARNED, REASONING, Example
from harness.training.left_out import LeftOut, Reason

THOUGHT = "</think>"  # what stands before it may be moved or taken out by templates, what stands behind it may not
_T = TypeVar("_T")
_MARKER = "Qz0marker0zQ"
_CHANGED = "x"  # appended to a turn, to see whether a template writes it


def answered(lm: LM, conversation: Conversation, answer: Turn) -> Conversation:
    """Returns the conversation with the answer as its one option, see `harness.prompts.encode`.

    The prompt is the one that an evaluation reads, also where the template opens an answer in another way than its
    generation prompt does (without the empty reasoning of a prompt with thinking off). Before an answer that brings
    reasoning of its own, that would be wrong: the prompt is then the one with thinking on, or else what the template
    writes before the answer.

    Raises:
        UserError: the template refuses the chat.
        LeftOut: it writes the turns before the answer in another way once the answer is there, or not the answer.
    """
    thinking = replace(conversation, reading=replace(conversation.reading, thinking=True))
    whole = render_answered(lm, conversation, answer)
    written = _behind(render(lm, conversation), whole)
    if written is not None:
        return continued(conversation, _ended(lm, conversation, answer, written))
    if not _opens_alike(lm, conversation, answer):
        raise LeftOut(
            Reason.TEMPLATE,
            f"the chat template of {lm.reference.text!r} writes the turns before the answer differently once it is "
            "there, so that a prompt would not be read as it is learned.",
        )
    opening = render(lm, thinking)
    if REASONING & answer.parts.keys() or THOUGHT in answer.content:
        written = _behind(opening, render_answered(lm, thinking, answer))
        return _rewritten(lm, conversation, whole) if written is None else continued(thinking, written)
    written = _behind(opening, whole)
    if written is None:
        before, _ = _frame(lm, conversation, answer)
        written = _behind(before, whole)
    if written is None:
        return _rewritten(lm, conversation, whole)
    return continued(conversation, _ended(lm, conversation, answer, written))


def _behind(before: str, whole: str) -> str | None:
    return whole.removeprefix(before) if whole.startswith(before) else None


def turn_end(lm: LM, ids: Ids) -> Ids:
    """Ids up to and with the one that ends the turn.

    That is the first at which the model stops; where the template writes none of these, the last special token.
    """
    stop = next((place for place, token in enumerate(ids) if token in lm.stop_ids), None)
    special = (place for place, token in enumerate(ids) if token in _ends(lm))
    end = max(special, default=len(ids) - 1) if stop is None else stop
    return ids[: end + 1]


def _ends(lm: LM) -> frozenset[int]:
    """Tokens that may end a turn."""
    added = (token for token, text in lm.tokenizer.added_tokens_decoder.items() if text.special)
    return lm.stop_ids.union(lm.tokenizer.all_special_ids, added) - {lm.tokenizer.unk_token_id}


def check_labels(lm: LM, labels: Ids, answer: Turn) -> None:
    """Raises LeftOut if labels do not decode to the answer's text.

    White space is not compared: templates strip it, and it merges with what stands before the answer.
    """
    text = answer.content.rpartition(THOUGHT)[2]
    wanted = lm.tokenizer.decode(tokenize(lm, text, chat=True))  # as far as the tokenizer knows the text
    learned = lm.tokenizer.decode(labels)
    if not labels or _squeezed(wanted) not in _squeezed(learned):
        raise LeftOut(
            Reason.LABELS,
            f"its labels decode to {learned[:60]!r}, which is not its response {text[:60]!r}; a token that ends a turn "
            "inside the response, or a chat template that does not write it, may be the cause.",
        )


def check_written(models: Sequence[LM], example: Example) -> None:
    """Raises LeftOut if a chat template loses tools, tool calls, their results, a system turn or the answer's parts.

    Templates mostly leave out silently what they do not know.
    """
    conversation, answer = example.conversation, example.answer
    for lm in models:
        for name, other in _variants(conversation):
            if _same(partial(render, lm), conversation, other):
                raise _lost(lm, name)
    for name in sorted(LEARNED & answer.parts.keys()):
        if _same(partial(render_answered, models[0], conversation), answer, answer.without(name)):
            raise _lost(models[0], name)


def _ended(lm: LM, conversation: Conversation, answer: Turn, written: str) -> str:
    """The answer with an end: the template's own, or the end token where the template writes no special token."""
    if _ends(lm) & set(tokenize(lm, written, chat=True)):
        return written
    _, after = _frame(lm, conversation, answer)
    return written.removesuffix(after) + (lm.tokenizer.eos_token or "")


def _frame(lm: LM, conversation: Conversation, answer: Turn) -> tuple[str, str]:
    """What the template writes before and behind the answer's text."""
    before, _, after = render_answered(lm, conversation, replace(answer, content=_MARKER)).rpartition(_MARKER)
    return before, after


def _rewritten(lm: LM, conversation: Conversation, whole: str) -> Conversation:
    """The tokens of the whole, behind those that it has in common with the prompt."""
    ids = tokenize(lm, whole, chat=True)
    shared = common(tokenize(lm, render(lm, conversation), chat=True), ids)
    return replace(conversation, exact=Encoded(ids[:shared], shared, (ids[shared:],)))


def _opens_alike(lm: LM, conversation: Conversation, answer: Turn) -> bool:
    """Whether the template writes everything before the last turn's text alike with and without the answer."""
    turns = conversation.turns
    marked = replace(conversation, turns=(*turns[:-1], replace(turns[-1], content=_MARKER)))
    alone, with_answer = render(lm, marked), render_answered(lm, marked, answer)
    return alone.partition(_MARKER)[0] == with_answer.partition(_MARKER)[0]


def _variants(conversation: Conversation) -> Iterator[tuple[str, Conversation]]:
    """What a template has to write, by its name, with the conversation in which it is missing or changed."""
    if conversation.tools:
        yield "tools", replace(conversation, tools="")
    turns = conversation.turns
    for place, turn in enumerate(turns):
        if "tool_calls" in turn.parts:
            yield "tool_calls", replace(conversation, turns=_with(turns, place, turn.without("tool_calls")))
        if turn.role in {"system", "tool"} and turn.content.strip():
            changed = replace(turn, content=turn.content + _CHANGED)
            yield f"{turn.role} turn", replace(conversation, turns=_with(turns, place, changed))


def _same(write: Callable[[_T], str], one: _T, other: _T) -> bool:
    """Whether two chats are written alike; a template that refuses the other one tells them apart."""
    written = write(one)
    try:
        return write(other) == written
    except UserError:
        return False


def _with(turns: tuple[Turn, ...], place: int, turn: Turn) -> tuple[Turn, ...]:
    return (*turns[:place], turn, *turns[place + 1 :])


def _lost(lm: LM, name: str) -> LeftOut:
    return LeftOut(Reason.PARTS, f"the chat template of {lm.reference.text!r} does not write its {name}.")


def _squeezed(text: str) -> str:
    return "".join(text.split())
