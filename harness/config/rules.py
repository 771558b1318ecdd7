"""What has to agree between the fields of a configuration; each rule ends in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.channels.control_registry import CONTROLS, takers
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.channels.spec import entries_of, parse_channel
from harness.config.served import OWN, check_served, with_served_defaults
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.config.model import RunConfig

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
    given = {"sharer": bool(values.get("sharers")) or not values.get("receiver"), "tuned": bool(values.get("tuned"))}
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
    usual = tuple(name for name in USUAL_CONTROLS if takers(name, chosen))
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
    if "self" in config.controls and config.receiver and config.self_fuser is None:
        raise UserError("Control self needs a fuser of the receiver with itself; give --self_fuser or drop it.")
    if config.self_fuser is not None and "self" not in config.controls:
        raise UserError("self_fuser is used by the control self alone; add self to --controls or leave it out.")


def _check_taken(control: str, config: RunConfig) -> None:
    chosen = [parse_channel(name).entry for name in config.channels]
    if not takers(control, chosen):
        raise UserError(
            f"Control {control} does nothing to {' and '.join(entry.name for entry in chosen if entry.message)}; add "
            f"one of {', '.join(takers(control)) or 'no known channel'} to channels or leave it out of controls."
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
