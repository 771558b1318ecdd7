"""A channel as it is asked for: ``name[:option=value]...``, several variants of one channel in one run.

The canonical form (options by name, defaults left out) names the arm in configurations and records; the slug names
files, since a colon is no part of a file name everywhere. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.channels.registry import CHANNELS, ChannelEntry, Options
from harness.errors import UserError, suggest


@dataclass(frozen=True)
class ChannelSpec:
    """A channel with its options."""

    entry: ChannelEntry
    options: Options

    @property
    def text(self) -> str:
        """Canonical form, such as ``ensemble:rule=product``."""
        changed = self.options.model_dump(mode="json", exclude_defaults=True)
        return ":".join([self.entry.name, *(_option_text(name, changed[name]) for name in sorted(changed))])


def parse_channel(text: str) -> ChannelSpec:
    """Reads ``name[:option=value]...``; an option without a value is switched on.

    Raises:
        UserError: the channel or an option is unknown, an option is given twice, or its value is not allowed.
    """
    name, *parts = text.split(":")
    entry = CHANNELS.get(name.strip())
    values: dict[str, str] = {}
    for part in parts:
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if option in values:
            raise UserError(f"channel {text!r} gives {option!r} twice; give it once.")
        values[option] = value if equals else "true"
    return ChannelSpec(entry, _options(entry, values, text))


def spec_text(value: Any) -> Any:
    """Writes a YAML mapping ``{name: {option: value}}`` as a spec; anything else is returned as it is."""
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1:
        raise UserError("A channel with options is written {name: {option: value}}, one channel an entry.")
    ((name, options),) = value.items()
    if not isinstance(options, Mapping):
        raise UserError(f"The options of channel {name!r} are written {{option: value}}.")
    return ":".join([str(name), *(_option_text(str(option), chosen) for option, chosen in options.items())])


def plain_names(channels: Any) -> list[str]:
    """Returns the plain names in a value of the field `channels` that was not checked yet; what is no name is skipped.

    Args:
        channels: a text with commas, or a list of texts and mappings.
    """
    listed = channels.split(",") if isinstance(channels, str) else channels
    if not isinstance(listed, list | tuple):
        return []
    texts = (next(iter(one), None) if isinstance(one, Mapping) else one for one in listed)
    return [channel_of(text).strip() for text in texts if isinstance(text, str)]


def entries_of(channels: Any) -> list[ChannelEntry]:
    """Returns the entries of `plain_names` that are registered."""
    known = set(CHANNELS.names())
    return [CHANNELS.get(name) for name in plain_names(channels) if name in known]


def channel_of(arm_channel: str) -> str:
    """Returns the plain channel name of a canonical form, known here or not."""
    return arm_channel.partition(":")[0]


def slug(arm_channel: str) -> str:
    """Returns a canonical form as part of a file name, a CSS id or a URL: ``t2t-max_new_tokens-64-with_options``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", arm_channel)


def _option_text(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def _options(entry: ChannelEntry, values: Mapping[str, str], text: str) -> Options:
    allowed = entry.options.model_fields
    for option in values:
        if option not in allowed:
            listed = f"allowed: {', '.join(allowed)}" if allowed else "it has none"
            raise UserError(f"channel {text!r}: unknown option {option!r}; {listed}.{suggest(option, allowed)}")
    try:
        return entry.options.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        seen = f"{option}={values.get(option, '')}"
        raise UserError(f"channel {text!r}: {seen} is not allowed ({first['msg'].lower()}); see --help.") from error
