"""Rules between the fields of a configuration; each violation is one sentence.

A serving engine returns texts and loglikelihoods, never a cache, so a run through one is refused what reads caches,
entropies or single latencies. Such an engine is set up by its own arguments; access tokens never are among them, since
the arguments are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from harness.channels.control_registry import CONTROLS, channels_taking, controls_of_self
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.channels.spec import channel_of, entries_of, parse_channel, plain_names
from harness.config.idle import refuse_idle
from harness.errors import UserError
from harness.records.files import is_secret, scrub

if TYPE_CHECKING:
    from harness.config.run_config import RunConfig

OWN = "harness"

SERVED_CONTROLS = ("mismatched",)

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
    return {"controls": SERVED_CONTROLS if carried else (), **filled}


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
    _only(through, "controls", {name: name for name in config.controls}, SERVED_CONTROLS)
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


def name_value_pairs(arguments: str) -> Iterator[tuple[str, str]]:
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
    for name, value in name_value_pairs(arguments):
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


USUAL_CONTROLS = ("mismatched", "mean")

NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

BUDGETS = (*NEW_TOKENS, "max_length")


RETIRED = {
    "routed_fraction": "routed:share=X in --channels",
    "with_options": "t2t:with_options in --channels",
    "may_answer": "t2t:may_answer in --channels",
    "t2t_tokens": "t2t:max_new_tokens=N in --channels",
    "fusion_mode": "c2c:mode=parallel in --channels",
    "alignment": "c2c:alignment=X in --channels",
}


def usual_channels(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The channels of a run that names none: all usual ones that the models at hand allow.

    Args:
        values: the fields of the configuration that stand before the channels.
    """
    embedded = not values.get("receiver")
    given = {"tuned": bool(values.get("tuned"))}
    given |= {need: embedded or bool(values.get(f"{need}s")) for need in ("sharer", "fuser")}
    chosen = [entry for entry in CHANNELS.loaded() if entry.usual or (entry in _tuned_channels() and given["tuned"])]
    return tuple(e.name for e in chosen if all(given.get(need, True) for need in e.needs))


def refuse_retired(names: Iterable[str]) -> None:
    """Names what took the place of a field that is gone.

    Raises:
        UserError: one of the names is such a field.
    """
    for name in names:
        if name in RETIRED:
            raise UserError(f"{name} is an option of its channel now; write {RETIRED[name]}.")


def with_usual_controls(values: Any) -> Any:
    """Fills in the usual controls where none are named and some channel carries a message."""
    if not isinstance(values, Mapping):
        return values
    refuse_retired(values)
    values = _with_tuned(with_served_defaults(values))
    if "controls" in values:
        return values
    chosen = entries_of(values.get("channels", usual_channels(values)))
    usual = tuple(name for name in USUAL_CONTROLS if channels_taking(name, chosen))
    return {**values, "controls": usual} if usual else values


def _with_tuned(values: dict[str, Any]) -> dict[str, Any]:
    """Adds the channel of a fine-tuned receiver where one is given beside named channels."""
    channels = values.get("channels")
    if values.get("tuned") is None or not isinstance(channels, (str, list, tuple)):
        return values
    named = [part.strip() for part in channels.split(",")] if isinstance(channels, str) else list(channels)
    present = {need for entry in entries_of(channels) for need in entry.needs}
    if "tuned" in present:
        return values
    return {**values, "channels": (*named, *(entry.name for entry in _tuned_channels()))}


def _tuned_channels() -> list[ChannelEntry]:
    return [entry for entry in CHANNELS.own() if "tuned" in entry.needs]


def check(config: RunConfig) -> None:
    """Applies every rule.

    Raises:
        UserError: for the first that is broken.
    """
    for name in config.controls:
        CONTROLS.get(name)
    for name in ("channels", "controls", "tasks"):
        _no_repeats(name, getattr(config, name))
    if not config.channels:
        raise UserError(f"channels is empty; name at least one of {', '.join(CHANNELS.names())}.")
    check_served(config)
    _check_pair(config)
    _check_controls(config)
    _check_lengths(config)
    _check_placement(config)
    refuse_idle(config)


def _no_repeats(field: str, names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{field} names {repeated!r} twice; name it once.")


def _check_pair(config: RunConfig) -> None:
    if config.sharers and not config.receiver:
        raise UserError("A sharer is given but no receiver; give --receiver as well, or neither for the embedded pair.")
    specs = {name: parse_channel(name) for name in config.channels}
    entries = {name: spec.entry for name, spec in specs.items()}
    needs = {need for entry in entries.values() for need in entry.needs}
    if "tuned" in needs and config.tuned is None:
        raise UserError("Channel tuned needs the fine-tuned receiver; give --tuned or leave tuned out of --channels.")
    speaking = [name for name, entry in entries.items() if "sharer" in entry.needs]
    if config.receiver and not config.sharers and speaking:
        raise UserError(f"channels {', '.join(speaking)} need a sharer; give --sharer or use --channels receiver.")
    _check_reads(entries)
    for spec in specs.values():
        try:
            spec.options.check(config)
        except UserError as error:
            raise UserError(f"Channel {spec.text}: {error}") from error
    if "fuser" in needs:
        _check_fusers(config, [name for name, entry in entries.items() if "fuser" in entry.needs])


def _check_reads(entries: Mapping[str, ChannelEntry]) -> None:
    """What a channel is composed of has to be there as it is, without options."""
    for name, entry in entries.items():
        if any(other not in entries for other in entry.reads):
            both = " and ".join(entry.reads)
            raise UserError(f"Channel {name} is composed of {both}; add both to --channels.")


def _check_fusers(config: RunConfig, fused: Sequence[str]) -> None:
    embedded = not config.receiver
    if len(config.fusers) != len(config.sharers) and not (embedded and len(config.fusers) == 1):
        raise UserError(
            f"Channel {fused[0]} needs one fuser a sharer, but there are {len(config.fusers)} for "
            f"{len(config.sharers)} sharers; give --fuser once for each --sharer, or leave {fused[0]} out of "
            "--channels."
        )


def _check_controls(config: RunConfig) -> None:
    carrying = [name for name in config.channels if parse_channel(name).entry.message]
    if config.controls and not carrying:
        able = [entry.name for entry in CHANNELS.loaded() if entry.message]
        raise UserError(
            f"controls {', '.join(config.controls)} change messages, but no channel carries any; "
            f"add one of {', '.join(able)} to channels or drop the controls."
        )
    for name in () if config.resume else config.controls:  # a run that began with it goes on as it began
        _check_taken(name, config)
    _check_self_fuser(config)


def _check_self_fuser(config: RunConfig) -> None:
    asking = controls_of_self(config.controls)
    if asking and config.receiver and config.self_fuser is None:
        raise UserError(f"Control {asking[0]} needs a fuser of the receiver with itself; give --self_fuser or drop it.")
    if config.self_fuser is not None and not asking:
        able = " or ".join(controls_of_self(CONTROLS.names()))
        raise UserError(f"self_fuser is used by the control {able} alone; add {able} to --controls or leave it out.")


def _check_taken(control: str, config: RunConfig) -> None:
    chosen = [parse_channel(name).entry for name in config.channels]
    if not channels_taking(control, chosen):
        senders = " and ".join(entry.name for entry in chosen if entry.message)
        able = ", ".join(channels_taking(control)) or "no known channel"
        raise UserError(
            f"Control {control} does nothing to {senders}; add one of {able} to channels or leave it out of controls."
        )


def _check_lengths(config: RunConfig) -> None:
    clash = next((name for name in BUDGETS if name in config.gen_kwargs), None)
    if clash is not None and config.max_new_tokens is not None:
        raise UserError(f"max_new_tokens and gen_kwargs {clash} both set the length of an answer; give one of them.")
    if config.latency_equal_tokens == 1:
        raise UserError("latency_equal_tokens is 1; it has to be at least 2, since one token has no time per token.")
    if config.resume and config.output_path is None:
        raise UserError("resume needs the folder of the run; give --output_path.")


def _check_placement(config: RunConfig) -> None:
    asked = [name for name in ("device_map", "tensor_parallel") if getattr(config, name)]
    if len(asked) > 1:
        raise UserError("device_map and tensor_parallel both place the models; give one of them.")
    if asked and config.device not in ("auto", "cuda"):
        raise UserError(f"{asked[0]} places the models, and device {config.device!r} does too; give one of them.")
    if asked and config.backend != OWN:
        raise UserError(
            f"{asked[0]} places models of the harness; backend {config.backend!r} is told in its own arguments."
        )
