"""From rows to micro-batches of token ids: examples, their order, and the share of a process.

Prompts are exactly what the cache channel reads when it is evaluated (the same planner). The loss falls on the response
and the token that ends it, never on the prompt; what the tokenizer merges across their seam belongs to the response. An
answer is learned as the chat template writes it, reasoning and tool calls included, up to the end of the turn, and is
refused if the template or the tokenizer would lose a part of it.

Which rows form a step and which random numbers they meet are functions of the seed and the step alone: nothing has to
be saved to resume, and the number of processes changes only where something is computed. A row that cannot be learned
from is left out with its reason, and no single row ends a run.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from harness.channels.prompt_layout import Plan, Planner
from harness.errors import UserError
from harness.models.chat import (
    Conversation,
    Encoded,
    Turn,
    encode,
    render,
    render_answered,
    tokenize,
    with_continuations,
)
from harness.models.lm import LM
from harness.models.token_seam import Ids, common_prefix
from harness.training.dataset import LEARNED, REASONING, Corpus, Example, LeftOut, Reason
from harness.training.objective import GraphChannel, Kept
from harness.training.prompt_cache import Store
from harness.training.recipe import Recipe

THOUGHT = "</think>"  # what stands before it may be moved or taken out by templates, what stands behind it may not

_T = TypeVar("_T")

_MARKER = "Qz0marker0zQ"

_CHANGED = "x"  # appended to a turn, to see whether a template writes it


def answered(lm: LM, conversation: Conversation, answer: Turn) -> Conversation:
    """Returns the conversation with the answer as its one option, see `harness.models.chat.encode`.

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
        return with_continuations(conversation, _ended(lm, conversation, answer, written))
    if not _opens_alike(lm, conversation, answer):
        raise LeftOut(
            Reason.TEMPLATE,
            f"the chat template of {lm.reference.text!r} writes the turns before the answer differently once it is "
            "there, so that a prompt would not be read as it is learned.",
        )
    opening = render(lm, thinking)
    if REASONING & answer.parts.keys() or THOUGHT in answer.content:
        written = _behind(opening, render_answered(lm, thinking, answer))
        return _rewritten(lm, conversation, whole) if written is None else with_continuations(thinking, written)
    written = _behind(opening, whole)
    if written is None:
        before, _ = _frame(lm, conversation, answer)
        written = _behind(before, whole)
    if written is None:
        return _rewritten(lm, conversation, whole)
    return with_continuations(conversation, _ended(lm, conversation, answer, written))


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
    shared = common_prefix(tokenize(lm, render(lm, conversation), chat=True), ids)
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


def lay_out_lesson(planner: Planner, example: Example, max_length: int, *, whole: bool = False) -> Lesson:
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


def derived_seed(seed: int, *purpose: object) -> int:
    """Returns a seed of its own for each purpose."""
    text = "-".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def step_rows(step: int, rows: int, batch: int, seed: int) -> list[int]:
    """Returns the rows of one step: every epoch is a new permutation, and steps run on across their seams."""
    places = range(step * batch, (step + 1) * batch)
    return [_permutation(place // rows, rows, seed)[place % rows] for place in places]


def micro_batches(
    rows: list[int], size: int, length: Callable[[int], int], rank: int, world: int
) -> list[tuple[int, list[int]]]:
    """Deals a step out in batches of like lengths.

    Args:
        rows: of the step.
        size: of a micro batch.
        length: of a row, in any unit.
        rank: of this process.
        world: number of processes.

    Returns:
        This process's batches, each with its number within the step.
    """
    order = sorted(rows, key=lambda row: (length(row), row))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return list(enumerate(batches))[rank::world]


@functools.lru_cache(maxsize=4)
def _permutation(epoch: int, rows: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    order: list[int] = torch.randperm(rows, generator=generator).tolist()
    return order


_BY_TEMPLATE = frozenset({Reason.TEMPLATE, Reason.PARTS, Reason.LABELS})


@dataclass(frozen=True)
class Micro:
    """One forward pass of one process.

    Attributes:
        number: within the step.
        rows: that can be learned from.
        lessons: theirs.
        left_out: why the others cannot.
    """

    number: int
    rows: tuple[int, ...]
    lessons: tuple[Lesson, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Batches:
    """Deals rows out.

    Attributes:
        recipe: sizes and seed.
        corpus: rows to train on, and behind them those held out.
        channel: lays prompts out and reads them where they are kept.
        rank: of this process among `world`.
        store: kept prompts; None computes them every time.
    """

    recipe: Recipe
    corpus: Corpus
    channel: GraphChannel
    rank: int = 0
    world: int = 1
    store: Store | None = None

    def of(self, step: int) -> list[Micro]:
        """Returns this process's micro batches of a step."""
        recipe = self.recipe
        rows = step_rows(step, len(self.corpus) - recipe.held_out_rows, recipe.global_batch, recipe.seed)
        dealt = micro_batches(rows, recipe.micro_batch, self._characters, self.rank, self.world)
        return [self._micro(number, found) for number, found in dealt]

    def first(self, rows: int) -> list[Lesson]:
        """Returns the lessons of the first rows, whichever process asks."""
        return self._lessons(range(min(rows, len(self.corpus) - self.recipe.held_out_rows)))

    def sample(self, rows: int) -> list[Lesson]:
        """Returns the lessons of some rows from the first to the last, the same whichever process asks.

        Raises:
            UserError: a chat template refuses all of them, so it would refuse the rest as well.
        """
        tried = [self._lesson(row) for row in range(0, len(self.corpus), max(1, len(self.corpus) // rows))]
        refusals = [one for one in tried if isinstance(one, LeftOut) and one.reason in _BY_TEMPLATE]
        if tried and len(refusals) == len(tried):
            raise UserError(f"A chat template refuses all of {len(tried)} rows that were tried. {refusals[0]}")
        return [one for one in tried if isinstance(one, Lesson)]

    def held_out(self) -> Iterator[Micro]:
        """Yields this process's share of the rows that are held out."""
        first = len(self.corpus) - self.recipe.held_out_rows
        rows = list(range(first, len(self.corpus)))[self.rank :: self.world]
        size = self.recipe.micro_batch
        return (self._micro(start, rows[start : start + size]) for start in range(0, len(rows), size))

    def kept(self, micro: Micro) -> list[Kept] | None:
        """Returns what the frozen models read from the prompts, where that is kept."""
        if self.store is None:
            return None
        found = zip(micro.rows, micro.lessons, strict=True)
        return [self._kept(self.store, row, one) for row, one in found]

    def _kept(self, store: Store, row: int, one: Lesson) -> Kept:
        return store.get(row, lambda: self.channel.keep(one))

    def _characters(self, row: int) -> int:
        try:
            return self.corpus[row].characters
        except LeftOut:
            return 0

    def _micro(self, number: int, rows: Sequence[int]) -> Micro:
        tried = [(row, self._lesson(row)) for row in rows]
        useful = [(row, one) for row, one in tried if isinstance(one, Lesson)]
        left_out = tuple(one for _, one in tried if isinstance(one, LeftOut))
        return Micro(number, tuple(row for row, _ in useful), tuple(one for _, one in useful), left_out)

    def _lessons(self, rows: Iterable[int]) -> list[Lesson]:
        return [one for one in map(self._lesson, rows) if isinstance(one, Lesson)]

    def _lesson(self, row: int) -> Lesson | LeftOut:
        models = (self.channel.answers, *(link.sharer for link in self.channel.links))
        limit = min(self.recipe.max_length, *(lm.max_length for lm in models))
        try:
            example = self.corpus[row]
        except LeftOut as error:
            return error
        try:
            return lay_out_lesson(self.channel.planner, example, limit, whole=self.recipe.as_released)
        except LeftOut as error:
            return LeftOut(error.reason, f"Row {row} of the training data: {error}")
