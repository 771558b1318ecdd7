"""The flags of a command from the fields of its pydantic model: names, types, groups and help are those of the fields.

A switch has ``--name`` and ``--no-name``, of which help shows the one that changes something, in the words of `Off`; a
list is given with commas, everything else is one value; what is given twice counts as given last, but for lists of
`Each`.
What a value may be is checked by the model, so that a flag and a YAML file are refused in the same words.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.errors import UserError


@dataclass(frozen=True)
class Also:
    """Further names of a field, as flags and as keys: ``Annotated[Names, Also("sharer")]``."""

    name: str


@dataclass(frozen=True)
class Section:
    """Begins a group of fields, with its title: ``Annotated[str, Section("the pair")]``."""

    title: str


@dataclass(frozen=True)
class Front:
    """A flag that the short help shows; where no field of a model has it, all are shown."""


@dataclass(frozen=True)
class Each:
    """A list whose parts may be given by flags of their own: ``--sharer a --sharer b``."""


@dataclass(frozen=True)
class Off:
    """What a switch that is on does once it is turned off, as help says it of ``--no-name``."""

    text: str


Form = Literal["switch", "parts", "list", "mapping", "count", "number", "text"]
_FORMS: tuple[tuple[type, Form], ...] = (
    (bool, "switch"),
    (tuple, "list"),
    (dict, "mapping"),
    (int, "count"),
    (float, "number"),
)


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        field: the field of the model.
        names: without dashes before them; the field's own first.
        form: what is written behind it.
        help: what the shown spelling does: the field's description with its default, or its `Off`.
        section: the group that it stands in; "" for none.
        front: whether the short help shows it.
        on: whether a switch is on unless it is given.
    """

    field: str
    names: tuple[str, ...]
    form: Form
    help: str
    section: str = ""
    front: bool = True
    on: bool = False

    @property
    def shown(self) -> str:
        """The one spelling that help shows: of a list the flag for one part, of a switch what changes it."""
        if self.form == "parts":
            return f"--{self.names[-1]}"
        return f"--no-{self.names[0]}" if self.on else f"--{self.names[0]}"

    @property
    def spellings(self) -> list[str]:
        """As they are written on the command line, with underscores and with hyphens."""
        return [f"--{word}" for name in self.names for word in dict.fromkeys((name, name.replace("_", "-")))]


def flags_of(model: type[BaseModel]) -> Iterator[Flag]:
    """Yields one flag a field, in the order of the fields."""
    section = ""
    fronted = any(isinstance(mark, Front) for info in model.model_fields.values() for mark in info.metadata)
    for name, info in model.model_fields.items():
        section = next((mark.title for mark in info.metadata if isinstance(mark, Section)), section)
        names = (name, *(mark.name for mark in info.metadata if isinstance(mark, Also)))
        marks = {type(mark) for mark in info.metadata}
        form = "parts" if Each in marks else _form(info.annotation)
        front = Front in marks or not fronted
        yield Flag(name, names, form, _help(info), section, front, form == "switch" and info.default is True)


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """Returns every further name of a field -> the field."""
    return {name: flag.field for flag in flags_of(model) for name in flag.names[1:]}


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """Adds the flags of a model to a parser; what nobody gives is absent from what is parsed."""
    sections: dict[str, Any] = {"": parser}
    strict = bool(model.model_config.get("strict"))
    for flag in flags_of(model):
        if flag.section not in sections:
            sections[flag.section] = parser.add_argument_group(flag.section)
        action = sections[flag.section].add_argument(
            *flag.spellings, dest=flag.field, default=argparse.SUPPRESS, help=flag.help, **_kind(flag, strict)
        )
        action.shown, action.rare, action.listed = flag.shown, not flag.front, flag.form in ("list", "parts")


def given_values(model: type[BaseModel], parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a model's fields among parsed flags, unchecked.

    Raises:
        UserError: a mapping is not written ``name=value``.
    """
    forms = {flag.field: flag.form for flag in flags_of(model)}
    return {name: _read(name, forms[name], value) for name, value in parsed.items() if name in forms}


def _read(name: str, form: Form, value: Any) -> Any:
    if form in ("list", "parts"):
        texts = [value] if isinstance(value, str) else value
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]
    return _pairs(name, value) if form == "mapping" else value


def _form(annotation: Any) -> Form:
    found = set(_plain_types(annotation))
    forms = [form for kind, form in _FORMS if kind in found]
    return "text" if str in found or not forms else forms[0]


def _plain_types(annotation: Any) -> Iterator[type]:
    """Yields the types behind annotations and unions; of a tuple or a mapping not those of its parts."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _plain_types(one)
    elif origin is Literal:
        yield str
    else:
        yield origin or annotation


def _kind(flag: Flag, strict: bool) -> dict[str, Any]:
    """How argparse reads a flag; a model that is not strict reads numbers itself."""
    kinds: dict[Form, dict[str, Any]] = {
        "switch": {"action": argparse.BooleanOptionalAction},
        "parts": {"action": "append", "metavar": "NAME"},
        "list": {"metavar": "NAMES"},
        "count": {"metavar": "N", **({"type": _count} if strict else {})},
        "number": {"metavar": "X", **({"type": _number} if strict else {})},
    }
    return kinds.get(flag.form, {"metavar": flag.field.rpartition("_")[2].upper()})


def _help(info: FieldInfo) -> str:
    off = next((mark.text for mark in info.metadata if isinstance(mark, Off)), "")
    text = off or info.description or ""
    silent = isinstance(info.default, bool) or info.default in (None, "", (), {})
    shown = not silent and not info.is_required() and info.default_factory is None
    return (f"{text} (default: {info.default})" if shown else text).replace("%", "%%")


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _pairs(name: str, text: str) -> dict[str, Any]:
    pairs = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{name} has {part!r}; write name=value, separated by commas.")
        try:
            pairs[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{name}: the value of {key!r} cannot be read: {value!r}.") from None
    return pairs
