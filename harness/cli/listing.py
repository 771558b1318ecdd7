"""What `ls` lists: names from the registries, what they take, and who brings those that are not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.benchmarks import registry
from harness.benchmarks.registry import TASK_FOLDERS
from harness.channels.control_registry import CONTROLS
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.fusers.registry import FUSERS
from harness.registry import Registry


def _marked(text: str, origin: str) -> str:
    return f"{text}  ({origin})" if origin else text


def _options(entry: ChannelEntry) -> str:
    """The options as a spec writes them, each with its default: ``[:max_new_tokens=256]``."""
    written = []
    for name, field in entry.options.model_fields.items():
        value = "X" if field.default is None else field.default
        written.append(f"[:{name}]" if value is False else f"[:{name}={value}]")
    return "".join(written)


def _table(registry: Registry[Any], left: Callable[[Any], str]) -> list[str]:
    entries = list(registry)
    width = max((len(left(entry)) for entry in entries), default=0)
    return [_marked(f"{left(e):<{width}}  {e.summary}".rstrip(), registry.origin(e.name)) for e in entries]


def _brought(names: Iterable[str]) -> list[str]:
    entries = registry.tasks_brought_by()
    return [_marked(name, TASK_FOLDERS.origin(entries[name]) if name in entries else "") for name in names]


def channels() -> list[str]:
    """Lists every channel with its options."""
    return _table(CHANNELS, lambda entry: f"{entry.name} {_options(entry)}".rstrip())


def controls() -> list[str]:
    """Lists every control."""
    return _table(CONTROLS, lambda entry: entry.name)


def fusers() -> list[str]:
    """Lists every form of fuser."""
    return _table(FUSERS, lambda entry: entry.name)


def tasks() -> list[str]:
    """Lists what stands for whole benchmarks."""
    return _brought(registry.headline_names())


def subtasks() -> list[str]:
    """Lists every task and group."""
    return _brought(registry.available_tasks())


LISTS: Mapping[str, Callable[[], list[str]]] = {
    "tasks": tasks,
    "subtasks": subtasks,
    "channels": channels,
    "controls": controls,
    "fusers": fusers,
}
