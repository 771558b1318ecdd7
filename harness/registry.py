"""Named entries of one kind: ours, those of installed distributions, those of a plug-in module.

Guarantees that a name means one thing (a second entry of that name is an error), that an unknown name gets its nearest
neighbour, and that nothing of another distribution is imported before its name is asked for.

Modules named with ``--plugin``, which bring channels, controls, fusers and tasks without being installed.

A plug-in registers its entries when it is imported (``CHANNELS.add(ChannelEntry(...))``), lists them under the name
``entries``, or just holds them as names of its own. Each registry takes the entries of its own kind.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

from harness.errors import UserError, unknown


class Named(Protocol):
    """Anything that a registry can hold."""

    @property
    def name(self) -> str:
        """The name by which it is asked for."""


E = TypeVar("E", bound=Named)

_UNNAMED = "another module"


class Registry(Generic[E]):
    """Entries by name.

    Example:
        CHANNELS: Registry[ChannelEntry] = Registry("channel", "c2c_harness.channels", ours)
        CHANNELS.get("c2c")
    """

    def __init__(self, what: str, group: str, entries: Iterable[E] = (), kind: type[E] | None = None) -> None:
        """Starts with our own entries.

        Args:
            what: the kind of entry, for error sentences.
            group: entry-point group through which other distributions add entries.
            entries: our own.
            kind: what an entry is, so that a plug-in may list entries of several registries; that of our own where it
                is left out.
        """
        listed = list(entries)
        self.what, self.group = what, group
        self.kind: type = kind or (type(listed[0]) if listed else type(None))
        self._entries: dict[str, E] = {}
        self._origins: dict[str, str] = {}
        self._installed: dict[str, EntryPoint] | None = None
        for entry in listed:
            self.add(entry, origin="")

    def add(self, entry: E, origin: str = _UNNAMED) -> E:
        """Adds an entry and returns it.

        Args:
            entry: under its name.
            origin: who brings it, for lists and errors; "" for our own.

        Raises:
            UserError: the name is taken.
        """
        if self._entries.get(entry.name, entry) != entry:
            raise UserError(f"Two entries are named {self.what} {entry.name!r}; rename one of them.")
        self._entries[entry.name] = entry
        self._origins.setdefault(entry.name, origin)
        return entry

    def put(self, entry: E, origin: str) -> E:
        """Adds an entry in place of an earlier one from the same origin, as a cell of a notebook that runs again.

        Raises:
            UserError: the name is taken by another origin.
        """
        if self._origins.get(entry.name) == origin:
            del self._entries[entry.name]
        return self.add(entry, origin)

    def names(self) -> list[str]:
        """Returns every name, our own first; imports nothing."""
        return [*self._entries, *(name for name in self._points() if name not in self._entries)]

    def get(self, name: str) -> E:
        """Returns the entry of a name.

        Raises:
            UserError: there is no such entry, or the distribution that brings it cannot be imported.
        """
        if name not in self._entries and name in self._points():
            self.add(self._loaded(name, self._points()[name]))
        if name not in self._entries:
            raise unknown(self.what, name, self.names())
        return self._entries[name]

    def loaded(self) -> list[E]:
        """Returns the entries that are here already, our own first; imports nothing."""
        return list(self._entries.values())

    def own(self) -> list[E]:
        """Returns our own entries."""
        return [self._entries[name] for name, where in self._origins.items() if not where]

    def origin(self, name: str) -> str:
        """Says who brought an entry: "" for our own, otherwise a distribution or a plug-in module."""
        point = self._points().get(name)
        if point is None:
            return self._origins.get(name, "")
        return point.dist.name if point.dist is not None else point.value

    def credit(self, name: str, origin: str) -> None:
        """Notes who brought an entry that was added without a word."""
        if name in self._entries and self._origins.get(name) == _UNNAMED:
            self._origins[name] = origin

    def brought_by(self, origin: str) -> list[str]:
        """Returns the names that one plug-in or module brought."""
        return [name for name, where in self._origins.items() if where == origin]

    def __iter__(self) -> Iterator[E]:
        """Every entry, those of other distributions included."""
        return (self.get(name) for name in self.names())

    def _points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            self._installed = {}
            for point in entry_points(group=self.group):
                if point.name in self._entries or point.name in self._installed:
                    raise UserError(
                        f"{self.what.capitalize()} {point.name!r} of {point.value} is there already; uninstall one of "
                        "the two distributions."
                    )
                self._installed[point.name] = point
        return self._installed

    def _loaded(self, name: str, point: EntryPoint) -> E:
        try:
            entry: E = point.load()
        except Exception as error:  # somebody else's code raises anything
            raise UserError(
                f"{self.what.capitalize()} {name!r} cannot be loaded from {point.value}: "
                f"{type(error).__name__}: {str(error)[:200]}. Mend or uninstall that distribution."
            ) from error
        if entry.name != name:
            raise UserError(f"{point.value} is registered as {name!r} but calls itself {entry.name!r}; use one name.")
        return entry


def resolve(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """Returns a callable given as itself or as ``module:name``; the module is imported now."""
    if callable(target):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


# Resolved when a plug-in is loaded, so that naming one costs no import of the others.
REGISTRIES = (
    "harness.channels.registry:CHANNELS",
    "harness.channels.control_registry:CONTROLS",
    "harness.fusers.registry:FUSERS",
    "harness.benchmarks.registry:TASK_FOLDERS",
)


def all_registries() -> list[Registry[Any]]:
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
    known = all_registries()
    before = [set(registry.names()) for registry in known]
    module = _imported(name)
    for entry in getattr(module, "entries", None) or _held(module, known):
        registry = next((one for one in known if isinstance(entry, one.kind)), None)
        if registry is None:
            raise UserError(f"Plug-in {name!r} lists {entry!r:.80}, which is no entry of a registry; see docs.")
        registry.add(entry, origin=f"plug-in {name}")
    added = [set(registry.names()) - names for registry, names in zip(known, before, strict=True)]
    for registry, names in zip(known, added, strict=True):
        for one in names:
            registry.credit(one, f"plug-in {name}")
    if not any(added) and not any(one.brought_by(f"plug-in {name}") for one in known):
        raise UserError(f"Plug-in {name!r} registers nothing; define an entry in it, such as a ChannelEntry.")


def _held(module: ModuleType, known: Iterable[Registry[Any]]) -> list[Any]:
    """Returns the entries among a module's own names."""
    kinds = tuple(registry.kind for registry in known)
    return [value for value in vars(module).values() if isinstance(value, kinds)]


def _imported(name: str) -> ModuleType:
    path = None
    try:
        path = _file_of(name)
        return importlib.import_module(name) if path is None else _from_file(path)
    except UserError:
        raise
    except Exception as error:  # somebody else's code raises anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        mend = "Install it, or give its file" if path is None else f"Mend it{_line_in(path, error)}"
        raise UserError(f"Plug-in {name!r} cannot be imported: {reason}. {mend}.") from error


def _line_in(path: Path, error: Exception) -> str:
    """Says the last line of a plug-in's file that led to an error; "" where none did."""
    if isinstance(error, SyntaxError) and error.lineno is not None and Path(error.filename or "").name == path.name:
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" in line {lines[-1]}" if lines else ""


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
