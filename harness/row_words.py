"""What a text sharer is asked about: the bare question of a row and its options, wherever the row keeps them.

Guarantees that nothing is guessed: a field that is no question (`question: cause` in COPA) counts as none, and so does
one that lists the options already, because a sharer that is not to see them would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import UserError

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
