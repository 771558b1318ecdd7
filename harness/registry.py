"""Named entries of one kind: ours, those of installed distributions, those of a plug-in module.

Guarantees that a name means one thing (a second entry of that name is an error), that an unknown name gets its nearest
neighbour, and that nothing of another distribution is imported before its name is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
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
