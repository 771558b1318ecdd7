"""Who sees what of a task's questions: the receiver's and the sharer's view, as the task's file says.

Under `metadata`, which lm-eval keeps as it is, a task may say:

* `sharer_context`: what the sharer alone reads before the question, such as ``"{{passage}}"``.
* `sharer_doc_to_text`: what the sharer reads in place of `doc_to_text`.
* `receiver_hides: options`: the receiver reads the question without the texts of its options.

A text is written as lm-eval writes `doc_to_text`: the name of a field, a template, or a `!function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from harness.errors import UserError
from harness.inference.types import Query
from harness.prompts import Conversation, SharerView
from harness.row_words import option_texts, without_options

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
        hidden = self.doc_to_text(without_options(document))
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
