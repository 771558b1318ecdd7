"""Who sees what of a question: the receiver's and the sharer's view, the bare question and its options.

The bare question and its options, which a text sharer is asked about, are never guessed: a field that is no question
(`question: cause` in COPA), or that lists the options already, counts as none. A task says who sees what under
`metadata`, which lm-eval keeps as it is. A text there is written like `doc_to_text`: a field's name, a template, or a
`!function`.

* `sharer_context`: what the sharer alone reads before the question, such as ``"{{passage}}"``.
* `sharer_doc_to_text`: what the sharer reads in place of `doc_to_text`.
* `receiver_hides: options`: the receiver reads the question without the texts of its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from harness.errors import UserError
from harness.inference.types import Query
from harness.models.chat import Conversation, SharerView

Wanted = str | Callable[[Mapping[str, Any]], str] | None


_QUESTIONS = ("t2t_question", "question", "question_stem", "query", "Question", "goal")

_LISTS = ("choices", "options", "endings", "mc1_targets", "mc2_targets")

# Fields that hold an option each: a common stem, then a number or a letter. Numbered answers may all be right ones.
_FAMILIES = tuple(
    re.compile(pattern)
    for pattern in (
        *(rf"{stem}[_ ]?([0-9]|[a-j]|[A-J])" for stem in ("choice", "option", "sol", "ending")),
        r"answer[_ ]?([a-j]|[A-J])",
        r"op([a-j])",
        r"([A-J])",
    )
)

# Fields whose names tell the right option; these are put in the order of the alphabet.
_TELLING = (re.compile(r"correct_answer|distractor[0-9]"), re.compile(r"Correct Answer|Incorrect Answer [0-9]"))

_MARK = re.compile(r"^\s*\(?[A-Z0-9][).:]\s*")


def bare_question(document: Mapping[str, Any], wanted: Wanted, context: str, shown: Sequence[str]) -> str | None:
    """Finds the question of a row, without its options.

    Args:
        document: the row.
        wanted: how the task says that it is found, by the name of a field or a function.
        context: the prompt; a single word counts as a question only where it stands there or ends in a question mark.
        shown: the row's options, as `option_texts` finds them.

    Returns:
        None where no field is a question.

    Raises:
        UserError: the task names a field that this row lacks.
    """
    if callable(wanted):
        return str(wanted(document))
    if wanted:
        if not isinstance(document.get(wanted), str):
            raise UserError(f"The task names {wanted!r} as t2t_question, but a row has no text in such a field.")
        return str(document[wanted])
    texts = (document[name] for name in _QUESTIONS if isinstance(document.get(name), str))
    return next((text for text in texts if _asks(text, context) and not _lists(text, shown)), None)


def option_texts(document: Mapping[str, Any], continuations: Sequence[str] = ()) -> tuple[str, ...]:
    """Finds the options of a row.

    Args:
        document: the row.
        continuations: what lm-eval compares; these are the options unless they are labels such as A, B, C.

    Returns:
        Their texts in order, nothing where they are not known.
    """
    compared = tuple(text.strip() for text in continuations)
    if len(compared) > 1 and all(compared) and not _are_labels(compared):
        return compared
    found = _in_document(document)
    return found if len(compared) < 2 or len(found) == len(compared) else ()


def without_options(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with an empty text in place of every option, wherever `option_texts` finds them."""
    hidden = dict(document)
    for name in _LISTS:
        if len(_listed(document.get(name))) > 1:
            hidden[name] = _blanked(document[name])
    for names in (*_FAMILIES, *_TELLING):
        if len(_family(document, names) if names in _FAMILIES else _told(document, names)) > 1:
            hidden |= {name: "" for name in document if names.fullmatch(name)}
    return hidden


def _blanked(value: Any) -> Any:
    """Options in any of the forms that `_listed` reads, with empty texts; labels stay."""
    if isinstance(value, Mapping):
        texts = [name for name in ("text", "choices") if name in value]
        return {name: _blanked(part) if not texts or name in texts else part for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [{**part, "text": ""} if isinstance(part, Mapping) else "" for part in value]
    return ""


def _in_document(document: Mapping[str, Any]) -> tuple[str, ...]:
    listed = (_listed(document[name]) for name in _LISTS if name in document)
    ways = (
        *listed,
        *(_family(document, names) for names in _FAMILIES),
        *(_told(document, names) for names in _TELLING),
    )
    return next((way for way in ways if len(way) > 1), ())


def _listed(value: Any) -> tuple[str, ...]:
    """Texts out of a list, of columns (`text` and `label`), or of a map from label to text."""
    if isinstance(value, Mapping):
        column = next((value[name] for name in ("text", "choices") if name in value), None)
        return _listed(list(value.values()) if column is None else column)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
    plain = [text for text in texts if isinstance(text, str | int | float) and str(text).strip()]
    return tuple(str(text) for text in plain) if len(plain) == len(texts) else ()


def _family(document: Mapping[str, Any], names: re.Pattern[str]) -> tuple[str, ...]:
    fields = ((names.fullmatch(name), value) for name, value in document.items() if isinstance(value, str) and value)
    found = sorted((match[1], value) for match, value in fields if match)
    return tuple(text for _, text in found) if _consecutive([suffix for suffix, _ in found]) else ()


def _told(document: Mapping[str, Any], names: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(sorted(str(text) for name, text in document.items() if names.fullmatch(name) and text))


def _are_labels(texts: Sequence[str]) -> bool:
    return _consecutive([text.strip("()[].: ") for text in texts])


def _consecutive(signs: Sequence[str]) -> bool:
    """Whether these are signs such as A, B, C or 1, 2, 3."""
    if not all(len(sign) == 1 for sign in signs):
        return False
    return all(ord(sign) == ord(signs[0]) + place for place, sign in enumerate(signs))


def _asks(text: str, context: str) -> bool:
    """A single plain word is a name for something, as `cause` is, unless the prompt asks it."""
    word = text.strip()
    if not word.isascii() or len(word.split()) != 1 or word.endswith("?"):
        return True
    return re.search(rf"\b{re.escape(word)}\b", context, re.IGNORECASE) is not None


def _lists(text: str, options: Sequence[str]) -> bool:
    """Whether each option stands in the text behind a label of its own."""
    bare = [re.escape(_MARK.sub("", option).strip()) for option in options]
    return len(bare) > 1 and all(re.search(rf"[A-Za-z0-9][).:]\s*{option}", text) for option in bare)


Template = str | Callable[[Mapping[str, Any]], Any]

CONTEXT, TEXT, HIDES = KEYS = ("sharer_context", "sharer_doc_to_text", "receiver_hides")


@dataclass(frozen=True)
class Views:
    """Who sees what of one task.

    Attributes:
        task: its name.
        doc_to_text: lm-eval's reading of a row, as every model would read it.
        context: what the sharer alone reads before it.
        text: what the sharer reads in place of it.
        hides_options: whether the receiver reads it without the options.
        names_question: whether the task says itself what a text sharer is asked about.
    """

    task: str
    doc_to_text: Callable[[Mapping[str, Any]], Any]
    context: Template = ""
    text: Template = ""
    hides_options: bool = False
    names_question: bool = False

    def of(self, query: Query, document: Mapping[str, Any]) -> Query:
        """The same question with both views.

        Raises:
            UserError: a template cannot be filled in, or the views cannot be made of this row.
        """
        usual = self.doc_to_text(document)
        if not isinstance(usual, str) or not usual:
            raise UserError(f"Task {self.task!r} gives its sharer another view, but its doc_to_text writes no text.")
        context = self._filled(CONTEXT, self.context, document)
        asked = self._filled(TEXT, self.text, document) if self.text else usual
        hidden = self._without_options(usual, document) if self.hides_options else usual
        receiver = self._with_text(query.receiver, usual, hidden)
        sharer = self._with_text(query.receiver, usual, f"{context}\n\n{asked}" if context else asked)
        if sharer == receiver:
            return query
        question = asked if self.text and not self.names_question else None
        return replace(query, receiver=receiver, sharer_view=SharerView(sharer, question, context))

    def _filled(self, key: str, template: Template, document: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError
        from lm_eval.utils import apply_template

        if callable(template):
            return str(template(document))
        if template in document:
            return str(document[template])
        try:
            return str(apply_template(template, dict(document)))
        except TemplateError as error:
            raise UserError(f"metadata.{key} of task {self.task!r} cannot be filled in for a row: {error}.") from error

    def _without_options(self, usual: str, document: Mapping[str, Any]) -> str:
        hidden = str(self.doc_to_text(without_options(document)))
        shown = [text for text in option_texts(document) if text in usual and hidden.count(text) >= usual.count(text)]
        if hidden == usual:
            raise UserError(f"{self._hiding}, but its doc_to_text shows none of a row; leave receiver_hides out.")
        if shown:
            raise UserError(
                f"{self._hiding}, but its doc_to_text shows {shown[0]!r} without the field that holds it; write "
                "it with the options' own field, or give the sharer a sharer_doc_to_text."
            )
        return hidden

    @property
    def _hiding(self) -> str:
        return f"Task {self.task!r} hides the options from the receiver"

    def _with_text(self, conversation: Conversation, usual: str, text: str) -> Conversation:
        """Puts a text in the place of the row's own, which ends the last turn of the user."""
        turns = list(conversation.turns)
        last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
        place = -1 if last is None else turns[last].content.rfind(usual)
        if last is None or place < 0:
            raise UserError(f"Task {self.task!r} gives its sharer another view, but a prompt does not hold its text.")
        content = turns[last].content
        turns[last] = replace(turns[last], content=content[:place] + text + content[place + len(usual) :])
        return replace(conversation, turns=tuple(turns))


def views_of(task: Any) -> Views | None:
    """Returns what an lm-eval task says of who sees what; None where every model reads the same.

    Raises:
        UserError: it says something that is not allowed.
    """
    metadata = metadata_of(task)
    given = {key: metadata[key] for key in KEYS if metadata.get(key) is not None}
    name = str(task.config.task)
    for key in metadata:
        if key not in KEYS and (near := get_close_matches(str(key), KEYS, 1, 0.85)):
            raise UserError(f"metadata of task {name!r} has {key!r}; did you mean {near[0]!r}?")
    if not given:
        return None
    for key in (CONTEXT, TEXT):
        if not (callable(given.get(key, "")) or isinstance(given.get(key, ""), str)):
            raise UserError(f"metadata.{key} of task {name!r} has to be a field's name, a template or a !function.")
    if given.get(HIDES, "options") not in ("options", ["options"]):
        raise UserError(f"metadata.{HIDES} of task {name!r} is {given[HIDES]!r}; allowed: options.")
    return Views(
        name,
        task.doc_to_text,
        given.get(CONTEXT, ""),
        given.get(TEXT, ""),
        HIDES in given,
        metadata.get("t2t_question") is not None,
    )


def metadata_of(task: Any) -> dict[str, Any]:
    """Returns an lm-eval task's metadata; empty where it has none, or none with names."""
    found = getattr(task.config, "metadata", None)
    return dict(found) if isinstance(found, Mapping) else {}
