"""Modules named with ``--plugin``, which bring channels, controls, fusers and tasks without being installed.

A plug-in registers its entries when it is imported (``CHANNELS.add(ChannelEntry(...))``) or lists them under the name
``entries``. Each registry takes the entries of its own kind.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError
from harness.registry import Registry

# Resolved when a plug-in is loaded, so that naming one costs no import of the others.
REGISTRIES = (
    "harness.channels.registry:CHANNELS",
    "harness.channels.control_registry:CONTROLS",
    "harness.fusion.registry:FUSERS",
    "harness.task_registry:TASK_FOLDERS",
)


def registries() -> list[Registry[Any]]:
    """Returns every registry that a plug-in may add to."""
    found = []
    for target in REGISTRIES:
        module, _, name = target.partition(":")
        found.append(getattr(importlib.import_module(module), name))
    return found


def load_plugins(modules: Iterable[str]) -> None:
    """Imports plug-ins and registers what they list; one that was loaded already adds nothing.

    Args:
        modules: names of modules, or paths of Python files.

    Raises:
        UserError: one cannot be imported, brings nothing, or brings a name that is taken.
    """
    for name in modules:
        _load(name)


def _load(name: str) -> None:
    known = registries()
    before = [set(registry.names()) for registry in known]
    module = _imported(name)
    listed = getattr(module, "entries", ())
    for entry in listed:
        registry = next((one for one in known if isinstance(entry, one.kind)), None)
        if registry is None:
            raise UserError(f"Plug-in {name!r} lists {entry!r:.80}, which is no entry of a registry; see docs.")
        registry.add(entry, origin=f"plug-in {name}")
    added = [set(registry.names()) - names for registry, names in zip(known, before, strict=True)]
    for registry, names in zip(known, added, strict=True):
        for one in names:
            registry.credit(one, f"plug-in {name}")
    if not any(added) and not any(one.brought_by(f"plug-in {name}") for one in known):
        raise UserError(f"Plug-in {name!r} registers nothing; call CHANNELS.add(...) in it, or list its `entries`.")


def _imported(name: str) -> ModuleType:
    try:
        path = _file_of(name)
        return importlib.import_module(name) if path is None else _from_file(path)
    except UserError:
        raise
    except Exception as error:  # somebody else's code raises anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Plug-in {name!r} cannot be imported: {type(error).__name__}: {reason}. Install it, or give its file."
        ) from error


def _file_of(name: str) -> Path | None:
    """The file that is meant: one given by its path, or one of the working folder that no installed module hides."""
    if name.endswith(".py") or "/" in name:
        return Path(name).expanduser()
    beside = Path(*name.split(".")).with_suffix(".py")
    installed = name in sys.modules or importlib.util.find_spec(name.partition(".")[0]) is not None
    return beside if beside.is_file() and not installed else None


def _from_file(path: Path) -> ModuleType:
    module_name = path.stem
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ is not None and Path(known.__file__).resolve() == path.resolve():
        return known
    if known is not None or not path.is_file():
        why = "another module of that name is loaded" if known is not None else "there is no such file"
        raise UserError(f"Plug-in {str(path)!r} cannot be imported: {why}; rename it or give another path.")
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
