"""Settings that would change nothing, each refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.channels.control_registry import CONTROLS
from harness.channels.spec import entries_of
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.config.run_config import RunConfig


def refuse_idle(config: RunConfig) -> None:
    """Refuses what was set and would change nothing; a run that goes on goes on as it began.

    Raises:
        UserError: for the first such setting.
    """
    for name, reason in () if config.resume else _idle(config):
        if getattr(config, name) != type(config).model_fields[name].default:
            raise UserError(f"{name} would change nothing, since {reason}; leave it out.")


def _idle(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yields fields that nothing reads, with the reason."""
    if not config.latency_samples:
        yield from ((name, "latency_samples is 0") for name in ("latency_warm_up", "latency_equal_tokens"))
    if not any("mean" in CONTROLS.get(name).inputs for name in config.controls):
        yield "calibration_samples", "no control takes the mean message"
    if config.receiver and not config.sharers:
        yield "sharer_chat_template", "there is no sharer"
    if config.receiver and not any("fuser" in entry.needs for entry in entries_of(config.channels)):
        yield "fusers", "no channel needs a fuser"
