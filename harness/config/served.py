"""What a run through somebody else's engine may ask for; each rule ends in one sentence.

A serving engine hands back texts and loglikelihoods, never a cache, so what reads caches, entropies or single
latencies is refused. How the engine is set up stands in its own arguments; access tokens never do, since the arguments
are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from harness.channels.registry import CHANNELS
from harness.channels.spec import channel_of, plain_names
from harness.errors import UserError
from harness.records.secret import is_secret, scrub

if TYPE_CHECKING:
    from harness.config.model import RunConfig

OWN = "harness"
CONTROLS = ("mismatched",)
_OURS = (
    *("device", "dtype", "attention", "trust_remote_code", "receiver_chat_template", "sharer_chat_template"),
    *("peft", "max_length"),
)
_FUSED = ("fusers", "self_fuser")
_TIMED = ("latency_samples", "latency_equal_tokens")
_HEADERS = {"header", "headers"}
_TOKENS_OF_A_VOCABULARY = re.compile(r"(bos|eos|eot|end|pad|unk|start|prefix)_token(_id)?$")


def with_served_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in what a run through a serving engine compares where nothing is named; other runs stay as they are."""
    if values.get("backend", OWN) == OWN:
        return dict(values)
    filled = {"channels": through_engines(), "latency_samples": 0, **values}
    named = plain_names(filled["channels"])
    carried = any(CHANNELS.get(name).message for name in through_engines() if name in named)
    return {"controls": CONTROLS if carried else (), **filled}


def through_engines() -> tuple[str, ...]:
    """Channels that an external engine can run."""
    return tuple(entry.name for entry in CHANNELS.loaded() if entry.through_engine)


def check_served(config: RunConfig) -> None:
    """Applies every rule about serving engines.

    Raises:
        UserError: for the first that is broken.
    """
    for side in ("receiver", "sharer"):
        given = str(getattr(config, f"{side}_args"))
        _check_arguments(f"{side}_args", given)
        if given and config.backend == OWN:
            raise UserError(f"{side}_args are arguments of a serving engine; name it with --backend, or drop them.")
    if config.backend == OWN:
        return
    through = f"Backend {config.backend!r}"
    _only(through, "channels", {name: channel_of(name) for name in config.channels}, through_engines())
    _only(through, "controls", {name: name for name in config.controls}, CONTROLS)
    if len(config.sharers) > 1:
        raise UserError(f"{through} takes one sharer, but {len(config.sharers)} are given; keep one --sharer.")
    if given_fuser := next((name for name in _FUSED if getattr(config, name)), None):
        raise UserError(f"{through} hands back no cache to fuse, so {given_fuser} cannot be used; drop it.")
    if timed := next((name for name in _TIMED if getattr(config, name)), None):
        raise UserError(
            f"{through} batches by itself, so a single answer's latency is not measured; leave {timed} out."
        )
    if changed := next((name for name in _OURS if getattr(config, name) != _default(config, name)), None):
        raise UserError(
            f"{through} decides about {changed} by itself; leave it out and say it in --receiver_args and "
            "--sharer_args as that engine names it."
        )


def pairs(arguments: str) -> Iterator[tuple[str, str]]:
    """Yields name and value of arguments written as ``name=value,name=value``."""
    for part in filter(None, (part.strip() for part in arguments.split(","))):
        name, _, value = part.partition("=")
        yield name.strip(), value.strip()


def _only(through: str, field: str, names: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Refuses names of which the plain one, the value in `names`, is not allowed."""
    if other := [name for name, plain in names.items() if plain not in allowed]:
        raise UserError(
            f"{through} hands back texts and loglikelihoods only, so {field} {', '.join(other)} cannot run through it; "
            f"allowed: {', '.join(allowed)}."
        )


def _default(config: RunConfig, name: str) -> Any:
    return type(config).model_fields[name].default


def _check_arguments(field: str, arguments: str) -> None:
    for name, value in pairs(arguments):
        if not name or not value:
            raise UserError(f"{field} has {(name or value)[:40]!r}; write name=value, separated by commas.")
        if _names_a_secret(name) or _holds_a_secret(value):
            raise UserError(
                f"{field} holds an access token or a header under {name!r}, and arguments are recorded; set the "
                "variable that the engine reads instead, such as OPENAI_API_KEY."
            )


def _names_a_secret(name: str) -> bool:
    return name.lower() in _HEADERS or (is_secret(name) and _TOKENS_OF_A_VOCABULARY.search(name.lower()) is None)


def _holds_a_secret(value: str) -> bool:
    if scrub(value) != value:
        return True
    if "://" not in value:
        return False
    url = urlsplit(value)
    return bool(url.username or url.password) or any(is_secret(name) for name, _ in parse_qsl(url.query))
