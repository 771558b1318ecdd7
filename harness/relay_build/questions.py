"""The two forms of question, their text, and the note that a sharer writes about them.

`one` asks what is near one name, `crowd` which of four names lives near a thing. The name stands before what is asked,
so no cache can hold the answer at the name. Imports no torch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.factworld_build.world import ASSISTANT, END, LABELS, SPECIAL, USER
from harness.relay_build.world import ATTRIBUTES, PLACE, VALUES, Fact, World

ONE, CROWD = "one", "crowd"
FORMS = (ONE, CROWD)
UNKNOWN = "?"  # in a reply: a place that the receiver was not told
T2T_PROMPT = "{question} tell me ."
SLOTS: Mapping[str, tuple[int, ...]] = {ONE: (2,), CROWD: (2, 4, 6, 8)}
"""Columns of a prompt without a note at which its names stand, behind the token that opens the user's turn."""
OPTION_COLUMNS = (-9, -7, -5, -3)
"""Columns of the options of a `one` prompt, counted from its end."""


def vocabulary(world: World) -> list[str]:
    """Every token in a fixed order, the special ones first."""
    words = ("near", "which", "is", "at", UNKNOWN, ".", "tell", "me")
    values = [value for attribute in ATTRIBUTES for value in VALUES[attribute]]
    return [*SPECIAL, *words, *LABELS, PLACE, *ATTRIBUTES, *values, *world.places, *world.homes]


@dataclass(frozen=True)
class Question:
    """One question with its four options.

    Attributes:
        form: `one` or `crowd`.
        attribute: what is asked for, or `place`.
        names: the one name, or the four.
        places: where they live.
        value: the thing (or place) that a `crowd` question names; the right option of a `one` question.
        choices: four values or places (`one`), or the names (`crowd`).
        key: index of the right option.
    """

    form: str
    attribute: str
    names: tuple[str, ...]
    places: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    key: int

    @property
    def fact(self) -> Fact:
        """The place and attribute that answer it."""
        return self.places[0 if self.form == ONE else self.key], self.attribute

    @property
    def name(self) -> str:
        """The name that lives there."""
        return self.names[0 if self.form == ONE else self.key]

    def stem(self, slots: Sequence[str] | None = None) -> str:
        """The question without the lettered options of a `one` question; `slots` stand in place of the names."""
        slots = slots or self.names
        if self.form == CROWD:
            return f"{letter_options(slots)} which is near {self.value} ?"
        return f"near {slots[0]} which {self.attribute} ?"

    def text(self, slots: Sequence[str] | None = None) -> str:
        """The user's turn."""
        return self.stem(slots) if self.form == CROWD else f"{self.stem(slots)} {letter_options(self.choices)}"

    def note(self, places: Sequence[str] | None = None) -> str:
        """The sentences that tell where the names live."""
        told = [f"{name} at {place} ." for name, place in zip(self.names, places or self.places, strict=True)]
        return told[0] if self.form == ONE else letter_options(told)

    def prompt(self, slots: Sequence[str] | None = None) -> str:
        """The rendered conversation up to the reply."""
        return f"{USER} {self.text(slots)} {END} {ASSISTANT}"

    def note_prompt(self) -> str:
        """The rendered conversation that asks a sharer for a note."""
        return f"{USER} {T2T_PROMPT.format(question=self.stem())} {END} {ASSISTANT}"

    def noted_prompt(self, note: str) -> str:
        """The rendered conversation up to the reply, behind an exchange that brought a note."""
        return " ".join([self.note_prompt(), *note.split(), END, self.prompt()])

    def reply(self, said: Sequence[str] | None = None) -> str:
        """The receiver's reply: the places, or what it says in their stead, and the letter."""
        return " ".join([*(said or self.places), LABELS[self.key]])

    def keyed(self, key: int) -> Question:
        """The same question with its right option under another letter."""
        order = list(range(len(LABELS)))
        order[key], order[self.key] = order[self.key], order[key]
        choices = tuple(self.choices[index] for index in order)
        if self.form == ONE:
            return replace(self, choices=choices, key=key)
        places = tuple(self.places[index] for index in order)
        return replace(self, names=choices, places=places, choices=choices, key=key)


def letter_options(options: Sequence[str]) -> str:
    """Options behind their letters."""
    return " ".join(f"{label} {option}" for label, option in zip(LABELS, options, strict=True))


def draw_question(
    world: World, form: str, fact: Fact, names_by_place: Mapping[str, Sequence[str]], rng: random.Random
) -> Question:
    """Draws a question.

    Args:
        world: of the question.
        form: `one` or `crowd`.
        fact: that answers it; its attribute may be `place`.
        names_by_place: names to choose from.
        rng: draws names, wrong options and their order.
    """
    return (_one if form == ONE else _crowd)(world, fact, names_by_place, rng)


def _one(world: World, fact: Fact, names_by_place: Mapping[str, Sequence[str]], rng: random.Random) -> Question:
    place, attribute = fact
    right, pool = (place, world.places) if attribute == PLACE else (world.values[fact], VALUES[attribute])
    choices = [right, *rng.sample([word for word in pool if word != right], len(LABELS) - 1)]
    rng.shuffle(choices)
    name = rng.choice(names_by_place[place])
    return Question(ONE, attribute, (name,), (place,), right, tuple(choices), choices.index(right))


def _crowd(world: World, fact: Fact, names_by_place: Mapping[str, Sequence[str]], rng: random.Random) -> Question:
    place, attribute = fact
    places = [place, *rng.sample(_other_places(world, fact), len(LABELS) - 1)]
    rng.shuffle(places)
    names = tuple(rng.choice(names_by_place[other]) for other in places)
    asked = place if attribute == PLACE else world.values[fact]
    return Question(CROWD, attribute, names, tuple(places), asked, names, places.index(place))


def _other_places(world: World, fact: Fact) -> list[str]:
    """Places without the thing that is asked for, whose facts are taught or untaught as the right one is."""
    place, attribute = fact
    if attribute == PLACE:
        return [other for other in world.places if other != place]
    untaught = fact in world.untaught
    return [
        other
        for other in world.places
        if world.values[other, attribute] != world.values[fact] and ((other, attribute) in world.untaught) == untaught
    ]
