"""What has to agree between the fields of a configuration; each rule ends in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.config.served import OWN, check_served, with_served_defaults
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.config.model import RunConfig

CHANNELS = ("receiver", "tuned", "sharer", "t2t", "c2c", "routed")
USUAL_CHANNELS = ("receiver", "sharer", "t2t", "c2c")
ALONE = ("receiver", "tuned")
MESSAGE_CHANNELS = ("t2t", "c2c")
CONTROLS = ("mismatched", "mean", "zeroed", "noise", "closed", "self", "shuffled_tokens")
USUAL_CONTROLS = ("mismatched", "mean")
BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_length")


def with_usual_controls(values: Any) -> Any:
    """Fills in the usual controls where none are named and some channel carries a message."""
    if not isinstance(values, Mapping):
        return values
    values = _with_tuned(with_served_defaults(values))
    if "controls" in values:
        return values
    channels = values.get("channels", MESSAGE_CHANNELS)
    carried = isinstance(channels, (str, list, tuple)) and any(name in channels for name in MESSAGE_CHANNELS)
    return {**values, "controls": USUAL_CONTROLS} if carried else values


def _with_tuned(values: dict[str, Any]) -> dict[str, Any]:
    """Adds the channel of a fine-tuned receiver where one is given."""
    channels = values.get("channels", USUAL_CHANNELS)
    if values.get("tuned") is None or not isinstance(channels, (str, list, tuple)):
        return values
    named = [part.strip() for part in channels.split(",")] if isinstance(channels, str) else list(channels)
    return values if "tuned" in named else {**values, "channels": (*named, "tuned")}


def check(config: RunConfig) -> None:
    """Applies every rule.

    Raises:
        UserError: for the first that is broken.
    """
    _known("channel", config.channels, CHANNELS)
    _known("control", config.controls, CONTROLS)
    for name in ("channels", "controls", "tasks"):
        _no_repeats(name, getattr(config, name))
    if not config.channels:
        raise UserError(f"channels is empty; name at least one of {', '.join(CHANNELS)}.")
    check_served(config)
    _check_pair(config)
    _check_controls(config)
    _check_lengths(config)
    _check_placement(config)


def _known(what: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise unknown(what, name, allowed)


def _no_repeats(field: str, names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{field} names {repeated!r} twice; name it once.")


def _check_pair(config: RunConfig) -> None:
    if config.sharers and not config.receiver:
        raise UserError("A sharer is given but no receiver; give --receiver as well, or neither for the embedded pair.")
    if "tuned" in config.channels and config.tuned is None:
        raise UserError("Channel tuned needs the fine-tuned receiver; give --tuned or leave tuned out of --channels.")
    speaking = [name for name in config.channels if name not in ALONE]
    if config.receiver and not config.sharers and speaking:
        raise UserError(f"channels {', '.join(speaking)} need a sharer; give --sharer or use --channels receiver.")
    if "c2c" not in config.channels:
        return
    embedded = not config.receiver
    if len(config.fusers) != len(config.sharers) and not (embedded and len(config.fusers) == 1):
        raise UserError(
            f"Channel c2c needs one fuser a sharer, but there are {len(config.fusers)} for {len(config.sharers)} "
            "sharers; give --fuser once for each --sharer, or leave c2c out of --channels."
        )


def _check_controls(config: RunConfig) -> None:
    if config.controls and not set(config.channels) & set(MESSAGE_CHANNELS):
        raise UserError(
            f"controls {', '.join(config.controls)} change messages, but no channel carries any; "
            f"add one of {', '.join(MESSAGE_CHANNELS)} to channels or drop the controls."
        )
    if "self" in config.controls and config.receiver and config.self_fuser is None:
        raise UserError("Control self needs a fuser of the receiver with itself; give --self_fuser or drop it.")
    if config.self_fuser is not None and "self" not in config.controls:
        raise UserError("self_fuser is used by the control self alone; add self to --controls or leave it out.")


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
