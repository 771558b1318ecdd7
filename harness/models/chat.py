"""Conversations, their rendering by a chat template, and the token ids of one model.

Guarantees that every model reads a conversation through its own chat template, that what is appended after the
generation prompt (the answer's opening words) stays apart, since a message never covers it, and that a prompt and the
options behind it are cut at the seam that `harness.models.token_seam` finds in the tokens of the whole text.

A prompt is the same on every day: a template that reads the clock gets one fixed date, which is part of the identity of
a run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import jinja2

from harness.errors import UserError
from harness.models import token_seam
from harness.models.reference import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date that Llama 3's template writes by itself where there is no clock.
TEMPLATE_DATE = "2024-07-26"

_CLOCK = "strftime_now"

_NOW = datetime.fromisoformat(TEMPLATE_DATE)

# Those that a template may put together itself; the others stand in its text.
_USUAL_FORMS = [f"%{form}" for form in (*"aAbBcdeDfFGHIjmMpRSTuUVwWxXyYzZ", "-d", "-m", "-H", "-I", "-M", "-S", "-j")]

_FORM = re.compile(r"%[-_0^#:EO]*\d*[A-Za-z]")


def reads_clock(tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template may write the date."""
    return _CLOCK in str(tokenizer.chat_template)


def fixed_clock(tokenizer: Any) -> dict[str, str]:
    """Arguments of ``apply_chat_template`` that put the fixed date in place of today's; none where nobody asks."""
    if not reads_clock(tokenizer):
        return {}
    template = str(tokenizer.get_chat_template())
    return {"chat_template": _macro(_FORM.findall(template)) + template}


def _macro(forms: Sequence[str]) -> str:
    """Hides the clock behind a macro of its name; transformers hands no functions on to templates."""
    dates = {form: _NOW.strftime(form) for form in sorted({*_USUAL_FORMS, *forms})}
    pairs = [("%%", "\0"), *dates.items(), ("\0", "%")]  # a percent sign that stands for itself begins no form
    written = "".join(f" | replace({json.dumps(form)}, {json.dumps(date)})" for form, date in pairs)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{written} }}}}{{%- endmacro +%}}"


# The paper runs every model with thinking off; templates that know no such switch ignore it.
TEMPLATE_ARGUMENTS: Mapping[str, Any] = {"enable_thinking": False}


# A template that draws one of two texts writes the same one so often once in 32768 times.
_RENDERINGS = 16


class Speaker(Protocol):
    """Whoever reads prompts: a loaded model, or one behind a serving engine."""

    @property
    def reference(self) -> Reference:
        """Its name."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, with its chat template."""

    @property
    def max_length(self) -> int:
        """Tokens that its context holds."""


@dataclass(frozen=True)
class Turn:
    """One turn of a chat.

    Attributes:
        role: as chat templates know it.
        content: its text.
        more: a JSON object of its other parts, under the names that chat templates read: `tool_calls`,
            `reasoning_content`, ...; empty where there are none.
    """

    role: str
    content: str
    more: str = ""

    @property
    def message(self) -> dict[str, Any]:
        """The turn in the form that chat templates take."""
        return {"role": self.role, "content": self.content, **self.parts}

    @property
    def parts(self) -> dict[str, Any]:
        """Its parts besides role and content."""
        parts: dict[str, Any] = json.loads(self.more) if self.more else {}
        return parts

    @classmethod
    def of(cls, role: str, content: str, parts: Mapping[str, Any]) -> Turn:
        """A turn with other parts."""
        return cls(role, content, json.dumps(parts, ensure_ascii=False, default=str) if parts else "")

    def without(self, part: str) -> Turn:
        """The same turn without one of its other parts."""
        return self.of(self.role, self.content, {name: value for name, value in self.parts.items() if name != part})


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation.

    Attributes:
        ids: the whole prompt with its prefix.
        n_prompt: how many of them stand before the prefix.
        options: ids of the conversation's options, each as it continues `ids`.
        dropped: tokens that were cut off at the left because the prompt is too long.
    """

    ids: tuple[int, ...]
    n_prompt: int
    options: tuple[tuple[int, ...], ...] = ()
    dropped: int = 0

    @property
    def room(self) -> int:
        """Tokens that the longest option takes of the context; its last token is scored but never read."""
        return max(map(len, self.options), default=1) - 1

    def last(self, tokens: int) -> Encoded:
        """The same with at most so many prompt tokens, at least 1, cut on the left."""
        drop = max(0, len(self.ids) - max(1, tokens))
        return replace(self, ids=self.ids[drop:], n_prompt=max(0, self.n_prompt - drop), dropped=self.dropped + drop)


@dataclass(frozen=True)
class Reading:
    """How a conversation becomes text and tokens.

    Attributes:
        as_lm_eval: read exactly what lm-eval's own `hf` model reads: its seam (white space that ends a prompt is scored
            with the option), its special tokens, its rendering of an opened answer, no template argument that nobody
            asked for, and prompts that are too long cut on the left. Otherwise the prompt keeps its white space, the
            template alone writes a chat's special tokens, and a prompt that is too long is an error.
        thinking: `enable_thinking` of chat templates; None: `TEMPLATE_ARGUMENTS` has it, or under `as_lm_eval` nobody.
        add_bos: lm-eval's ``add_bos_token``; None leaves it to the tokenizer. Under `as_lm_eval` only.
        start: lm-eval's ``prefix_token_id``, the token before an empty prompt; None: BOS, else EOS.
    """

    as_lm_eval: bool = False
    thinking: bool | None = None
    add_bos: bool | None = None
    start: int | None = None

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What chat templates are handed besides the messages."""
        usual = {} if self.as_lm_eval else dict(TEMPLATE_ARGUMENTS)
        return usual if self.thinking is None else {**usual, "enable_thinking": self.thinking}


@dataclass(frozen=True)
class Conversation:
    """What is asked.

    Attributes:
        turns: the chat so far, oldest first.
        prefix: opening words of the answer, appended after the generation prompt.
        chat: False sends the turns' text as it is, without any template.
        reading: how it becomes text and tokens.
        options: texts that follow it, each on its own; where they merge with the prompt's last tokens, those tokens
            belong to the options, so they are part of what the prompt is.
        exact: token ids that are read in place of all this.
        tools: a JSON list of the tools that chat templates are to describe; empty where there are none.
    """

    turns: tuple[Turn, ...]
    prefix: str = ""
    chat: bool = True
    reading: Reading = Reading()
    options: tuple[str, ...] = ()
    exact: Encoded | None = None
    tools: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns in the form that chat templates take."""
        return [turn.message for turn in self.turns]

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What chat templates are handed besides the messages."""
        offered = {"tools": json.loads(self.tools)} if self.tools else {}
        return {**self.reading.template_arguments, **offered}

    @property
    def plain(self) -> str:
        """The turns' text without a template."""
        return "\n\n".join(t.content for t in self.turns)


@dataclass(frozen=True)
class SharerView:
    """What the sharer reads of a question where that is not what the receiver reads.

    Attributes:
        conversation: in place of the receiver's conversation.
        question: what a text sharer is asked about in place of the bare question; None for the bare question.
        context: what a text sharer reads before it is asked; a receiver never does.
    """

    conversation: Conversation
    question: str | None = None
    context: str = ""


def user_turn(text: str, *, prefix: str = "", chat: bool = True) -> Conversation:
    """A conversation of one user turn."""
    return Conversation((Turn("user", text),), prefix, chat)


class ChatText(str):
    """A rendered conversation that remembers what it was rendered from.

    lm-eval hands a model's own chat rendering back to it untouched, so each model of a pair can apply its own
    template to `conversation`; everybody else sees a plain string.
    """

    conversation: Conversation

    def __new__(cls, text: str, conversation: Conversation) -> ChatText:
        """Attaches a conversation to its rendering."""
        made = super().__new__(cls, text)
        made.conversation = conversation
        return made

    def __getnewargs__(self) -> tuple[str, Conversation]:  # type: ignore[override]
        """What a copy, or a reader of its pickle, makes it of again."""
        return str(self), self.conversation


def from_history(history: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> Conversation:
    """Reads lm-eval's chat history; without a generation prompt its last turn is the answer's opening words."""
    turns = [Turn(t["role"], t["content"]) for t in history]
    if add_generation_prompt:
        return Conversation(tuple(turns))
    return Conversation(tuple(turns[:-1]), turns[-1].content)


def render(lm: Speaker, conversation: Conversation) -> str:
    """Returns the prompt's text without the prefix.

    Raises:
        UserError: the model has no chat template, or the template refuses the conversation.
    """
    return rendered(lm, conversation)[0]


def rendered(lm: Speaker, conversation: Conversation) -> tuple[str, str]:
    """Returns the prompt's text without the prefix, and with it; see `render`."""
    if not conversation.chat:
        return conversation.plain, conversation.plain + conversation.prefix
    if conversation.prefix and conversation.reading.as_lm_eval:
        opened = [*conversation.messages, {"role": "assistant", "content": conversation.prefix}]
        whole = _templated(lm, conversation, opened, add_generation_prompt=False, continue_final_message=True)
        return _before(whole, conversation.prefix), whole
    text = _templated(lm, conversation, conversation.messages, add_generation_prompt=True)
    return text, text + conversation.prefix


def render_answered(lm: Speaker, conversation: Conversation, answer: Turn) -> str:
    """Returns the text of a chat and the turn that answers it, closed as the template closes turns; see `render`."""
    return _templated(lm, conversation, [*conversation.messages, answer.message], add_generation_prompt=False)


def template_flag(role: str) -> str:
    """Returns the setting that gives a receiver or a sharer another chat template."""
    return f"{role}_chat_template"


def template_remedy(role: str) -> str:
    """Says how a model of a role is given the template that it lacks."""
    return f"give one with --{template_flag(role)} FILE, or `simple` for the built-in one"


_REMEDY = "give a Jinja file or the built-in 'simple' as receiver_chat_template or sharer_chat_template"


def check_template(lm: Speaker, remedy: str = _REMEDY) -> None:
    """Renders an empty question several times over.

    Args:
        lm: its tokenizer has the template.
        remedy: what to do where there is none, by the names of the command's flags.

    Raises:
        UserError: the template is missing, broken, or does not write the same text every time.
    """
    if lm.tokenizer.chat_template is None:
        raise _lacking(lm, remedy)
    texts = {render(lm, user_turn("")) for _ in range(_RENDERINGS)}
    if len(texts) > 1:
        raise UserError(
            f"The chat template of {lm.reference.text!r} writes another text every time; give a template whose text "
            "depends on the conversation alone (for instance the built-in 'simple')."
        )


def tokenize(lm: Speaker, text: str, chat: bool) -> tuple[int, ...]:
    """Token ids of rendered text; a chat template has already written the special tokens it wants."""
    if chat:
        return tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])
    return token_seam.plain_ids(lm.tokenizer, text)


def encode(lm: Speaker, conversation: Conversation) -> Encoded:
    """Token ids of a conversation for one model, and of the options behind it.

    The prompt and its options are cut at the seam in the tokens of the whole text. So the prompt of a conversation
    with options may end earlier than that of the same conversation without: ``Answer: `` before ``blue`` is read as
    ``Answer:``, and `` blue`` is the option.

    Raises:
        UserError: see `render`.
        ValueError: an option adds no token, so it has no loglikelihood.
    """
    if conversation.exact is not None:
        return conversation.exact
    head, text = rendered(lm, conversation)
    ids_of = _tokenizer_of(lm, conversation)
    ids, options = _split(lm, conversation, ids_of, text)
    if not conversation.prefix:
        return Encoded(ids, len(ids), options)
    return Encoded(ids, token_seam.common_prefix(ids_of(head), ids), options)


def with_continuations(conversation: Conversation, *texts: str) -> Conversation:
    """The same conversation with these texts behind it; `encode` then finds the seam on the rendered whole.

    Example:
        ``encode(lm, continued(conversation, response))`` gives the prompt's ids in ``ids`` and the response's in
        ``options[0]``: together they are the tokens of the whole text, and no token of the response is lost where it
        merges with the prompt's end. A planner lays the same conversation out for a receiver and its sharers.
    """
    return replace(conversation, options=texts)


def continuation_ids(lm: Speaker, conversation: Conversation, option: str) -> tuple[int, ...]:
    """Token ids of one option behind a conversation.

    They continue `encode(lm, conversation)` only where the conversation lists the option (see `with_continuations`) or
    where nothing merges across the seam.

    Raises:
        ValueError: the option adds no token, so it has no loglikelihood.
    """
    listed = conversation.options
    asked = conversation if option in listed else with_continuations(conversation, *listed, option)
    return encode(lm, asked).options[asked.options.index(option)]


def fingerprint_text(conversation: Conversation, extra: Any) -> str:
    """The text whose hash says whether two samples asked the same."""
    asked = [conversation.messages, conversation.prefix, conversation.chat, extra]
    if conversation.reading.thinking:
        asked.append("thinking")
    return json.dumps(asked, ensure_ascii=False, sort_keys=True)


def conversation_sha256(conversation: Conversation) -> str:
    """Digest of one model's conversation and its options, before any template."""
    return hashlib.sha256(fingerprint_text(conversation, list(conversation.options)).encode()).hexdigest()


def _lacking(lm: Speaker, remedy: str) -> UserError:
    return UserError(f"Model {lm.reference.text!r} has no chat template; {remedy}.")


def _templated(lm: Speaker, conversation: Conversation, messages: list[dict[str, Any]], **how: Any) -> str:
    if lm.tokenizer.chat_template is None:
        raise _lacking(lm, f"{_REMEDY}, or send plain text")
    how = {**how, **conversation.template_arguments, **fixed_clock(lm.tokenizer)}
    try:
        try:
            return str(lm.tokenizer.apply_chat_template(messages, tokenize=False, **how))
        except jinja2.TemplateError:
            others = [m for m in messages if m["role"] != "system"]
            if not conversation.reading.as_lm_eval or len(others) == len(messages):
                raise
            # lm-eval asks such a template once more without the system turn.
            return str(lm.tokenizer.apply_chat_template(others, tokenize=False, **how))
    except Exception as error:  # a template is a program of somebody else's and may raise anything
        raise UserError(f"The chat template of {lm.reference.text!r} refuses the conversation: {error}") from error


def _before(whole: str, prefix: str) -> str:
    """What stands before the prefix; a template may have stripped the white space around it."""
    forms = (prefix, prefix.rstrip(), prefix.lstrip(), prefix.strip())
    return next((whole.removesuffix(form) for form in forms if form and whole.endswith(form)), whole)


def _tokenizer_of(lm: Speaker, conversation: Conversation) -> token_seam.Tokenize:
    how = conversation.reading
    if not how.as_lm_eval:
        return partial(tokenize, lm, chat=conversation.chat)
    # lm-eval looks for the token before scored texts, and for BOS alone before it decodes.
    opening = token_seam.opening_text(lm.tokenizer, how.start) if conversation.options else lm.tokenizer.bos_token
    return partial(token_seam.lm_eval_ids, lm.tokenizer, opening=opening, add_bos=how.add_bos)


def _split(lm: Speaker, conversation: Conversation, ids_of: token_seam.Tokenize, text: str) -> token_seam.Pairs:
    if not conversation.options:
        return ids_of(text), ()
    if not text:
        return token_seam.behind_nothing(lm.tokenizer, conversation.options, conversation.reading.start)
    rule = (
        token_seam.split_keeping if conversation.chat and not conversation.reading.as_lm_eval else token_seam.as_lm_eval
    )
    return rule(ids_of, text, conversation.options)


def same_vocabulary(receiver_tok: PreTrainedTokenizerBase, sharer_tok: PreTrainedTokenizerBase) -> bool:
    """Says whether both models may read the same ids, so that no alignment is needed.

    Strings that both know must have one id, and what only one of them knows must be an added token. Qwen3 and
    Qwen2.5 count as the same on purpose: Qwen3 merely adds markers (thinking, tool responses) in rows that
    Qwen2.5 keeps in reserve, the paper's main pair runs unaligned, and aligning it costs 5 to 6 points.
    """
    ours: dict[str, int] = receiver_tok.get_vocab()
    theirs: dict[str, int] = sharer_tok.get_vocab()
    if any(theirs.get(token, index) != index for token, index in ours.items()):
        return False
    added = set(receiver_tok.get_added_vocab()) | set(sharer_tok.get_added_vocab())
    return ours.keys() ^ theirs.keys() <= added
