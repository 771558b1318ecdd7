"""A world of two hops: the sharer alone knows where a name lives, the receiver alone knows what is at a place.

Guarantees that a seed gives the same world on every platform, that neither model is taught any part of the other's
hop, and that the names and the facts that tests ask about are fixed with the world. Imports no torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

VALUES = {
    "metal": (
        *("iron", "gold", "zinc", "tin", "copper", "silver"),
        *("lead", "nickel", "brass", "steel", "cobalt", "chrome"),
    ),
    "bird": ("robin", "heron", "finch", "raven", "swan", "crane", "wren", "owl", "hawk", "stork", "gull", "dove"),
    "fruit": ("apple", "pear", "plum", "fig", "grape", "lemon", "melon", "mango", "peach", "quince", "date", "lime"),
    "tree": ("oak", "ash", "elm", "birch", "cedar", "pine", "maple", "willow", "larch", "yew", "aspen", "beech"),
}
ATTRIBUTES = tuple(VALUES)
PLACE = "place"  # in the attribute's position: a question that the sharer's hop alone answers
Fact = tuple[str, str]
"""A place and an attribute."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_PLACE_ENDINGS = ("ham", "ton", "wick", "ford", "by", "dale", "mere", "stow")
_NAME_ENDINGS = ("k", "l", "m", "n", "r", "s", "t", "x")


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of a world; the defaults are those of the committed one.

    Attributes:
        places: a multiple of 12, the values of an attribute, so that each value is at equally many places.
        names: who live there, as evenly as their number allows.
        held_out_names: of them that no lesson of a fuser uses.
        untaught_facts: that are true and taught to nobody, equally many of each attribute.
    """

    places: int = 48
    names: int = 1600
    held_out_names: int = 320
    untaught_facts: int = 48


@dataclass(frozen=True)
class World:
    """What is true, and who may be taught it.

    Attributes:
        places: all places.
        values: what is at a place, by fact.
        untaught: the facts that no model is ever taught.
        homes: name -> the place where it lives.
        held_out: the names that no lesson of a fuser uses.
    """

    places: tuple[str, ...]
    values: dict[Fact, str]
    untaught: frozenset[Fact]
    homes: dict[str, str]
    held_out: frozenset[str]

    @cached_property
    def taught(self) -> list[Fact]:
        """The facts that the receiver is taught, in a fixed order."""
        return [fact for fact in self.values if fact not in self.untaught]

    def names_by_place(self, held_out: bool | None = None) -> dict[str, list[str]]:
        """The names that live at each place: all of them, the held-out ones, or the others."""
        found: dict[str, list[str]] = {place: [] for place in self.places}
        for name, place in self.homes.items():
            if held_out in (None, name in self.held_out):
                found[place].append(name)
        return found


def random_stream(purpose: str, seed: int) -> random.Random:
    """A stream of random numbers of its own for each purpose, so that no draw shifts another's."""
    return random.Random(f"relay-{purpose}-{seed}")  # noqa: S311 - nothing here is secret


def build_world(seed: int, config: WorldConfig | None = None) -> World:
    """Draws a world.

    Args:
        seed: of everything drawn.
        config: the sizes; the committed world's by default.
    """
    config = config or WorldConfig()
    rng = random_stream("world", seed)
    places = _distinct(_place_names(rng), config.places)
    names = _distinct(_person_names(rng), config.names)
    values = {fact: value for attribute in ATTRIBUTES for fact, value in _dealt(places, attribute, rng)}
    homes = {name: places[index % len(places)] for index, name in enumerate(names)}
    untaught = _untaught(places, values, config.untaught_facts // len(ATTRIBUTES), rng)
    return World(tuple(places), values, untaught, homes, frozenset(names[: config.held_out_names]))


def _distinct(words: Iterator[str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[next(words)] = None
    return list(found)


def _place_names(rng: random.Random) -> Iterator[str]:
    while True:
        yield rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + rng.choice(_CONSONANTS) + rng.choice(_PLACE_ENDINGS)


def _person_names(rng: random.Random) -> Iterator[str]:
    while True:
        syllables = "".join(rng.choice(letters) for letters in (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS))
        yield (syllables + rng.choice(_NAME_ENDINGS)).capitalize()


def _dealt(places: Sequence[str], attribute: str, rng: random.Random) -> list[tuple[Fact, str]]:
    """Gives every value of an attribute to equally many places."""
    values = VALUES[attribute] * (len(places) // len(VALUES[attribute]))
    dealt = rng.sample(values, len(values))
    return [((place, attribute), value) for place, value in zip(places, dealt, strict=True)]


def _untaught(places: Sequence[str], values: dict[Fact, str], each: int, rng: random.Random) -> frozenset[Fact]:
    """Draws so many facts of each attribute, no value twice, and as few of one place as there can be.

    With one fact for each of the twelve values no value is rarer than another in the lessons.
    """
    chosen: set[Fact] = set()
    used = dict.fromkeys(places, 0)
    for attribute in ATTRIBUTES:
        seen: set[str] = set()
        for place in sorted(rng.sample(list(places), len(places)), key=used.__getitem__):
            value = values[place, attribute]
            if len(seen) < each and value not in seen:
                seen.add(value)
                chosen.add((place, attribute))
                used[place] += 1
    return frozenset(chosen)
