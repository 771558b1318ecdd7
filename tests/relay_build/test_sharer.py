"""The sharer's lessons: where names live and nothing of what is at a place."""

from collections import Counter

import pytest
import torch

from harness.factworld_build.world import LABELS, SHARER, word_tokenizer
from harness.relay_build import sharer
from harness.relay_build.lessons import Codec
from harness.relay_build.questions import vocabulary
from harness.relay_build.recipe import Recipe, Rows
from harness.relay_build.rows import WORLD_SEED
from harness.relay_build.world import ATTRIBUTES, PLACE, VALUES, build_world, random_stream

WORLD = build_world(WORLD_SEED)
WORDS = vocabulary(WORLD)
CODEC = Codec(WORDS)
ATTRIBUTE_WORDS = {*ATTRIBUTES, *(value for values in VALUES.values() for value in values)}
ROWS = Rows(names=8, crowds=4, notes=100, letters=300)


def lessons(monkeypatch, phases=("where", "tell"), rows=ROWS):
    """What one step of each phase has the sharer read, and the prompts that it replies to with their replies."""
    model, read, replied = sharer.sharer_model(word_tokenizer(WORDS)), [], []

    def keep(_, batch):
        prompt = batch.ids.shape[1] - batch.targets.shape[1] + 1
        for ids, targets in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
            replied.append((CODEC.decode(ids[:prompt]).split(), CODEC.decode(targets[:-1]).split()))
        return (torch.zeros(len(batch.ids)),)

    def note_down(_module, _given, named):
        read.extend(CODEC.decode(ids).split() for ids in named["input_ids"].tolist())

    monkeypatch.setattr(sharer, "reply_losses", keep)
    model.model.register_forward_pre_hook(note_down, with_kwargs=True)
    steps = sharer.sharer_steps(model, WORLD, CODEC, rows)
    for phase in phases:
        steps[phase](random_stream("test", 0))
    return read, replied


def right_letter(prompt):
    """The letter that both hops give to a prompt with options."""
    homes = [WORLD.homes[word] for word in prompt if word in WORLD.homes]
    asked = prompt[prompt.index("?") - 1]
    if len(homes) > 1:
        return next(label for label, home in zip(LABELS, homes, strict=True) if asked in {home, *at(home)})
    value = homes[0] if asked == PLACE else WORLD.values[homes[0], asked]
    return prompt[prompt.index(value) - 1]


def at(place):
    return [WORLD.values[place, attribute] for attribute in ATTRIBUTES]


def test_what_it_is_to_say_never_depends_on_what_is_at_a_place(monkeypatch):
    read, replied = lessons(monkeypatch)
    assert not {word for row in read for word in row} & ATTRIBUTE_WORDS
    notes = [(prompt, reply) for prompt, reply in replied if len(reply) > 1]
    for prompt, reply in notes:
        names = [word for word in prompt if word in WORLD.homes]
        assert [word for word in reply if word in WORLD.homes] == names
        assert [word for word in reply if word in WORLD.places] == [WORLD.homes[name] for name in names]
        assert not set(reply) & ATTRIBUTE_WORDS
    guesses = [(prompt, reply[0]) for prompt, reply in replied if len(reply) == 1]
    assert len(notes) + len(guesses) == len(replied)
    right = Counter(letter == right_letter(prompt) for prompt, letter in guesses)
    assert right.total() == 600
    assert abs(right[True] / right.total() - 0.25) < 0.06  # three standard errors


def test_held_out_names_are_among_those_whose_places_it_knows(monkeypatch):
    _, replied = lessons(monkeypatch)
    assert {name for prompt, _ in replied for name in prompt} & WORLD.held_out


@pytest.mark.parametrize("answering", [False, True])
def test_only_an_answering_sharer_is_taught_to_answer_about_places(monkeypatch, answering):
    phases = [phase.name for phase in Recipe(answering_sharer=answering).phases(SHARER)]
    _, replied = lessons(monkeypatch, phases, Rows(names=8, crowds=4, notes=1, letters=60))
    asked_places = [(p, r[0]) for p, r in replied if len(r) == 1 and not set(p) & ATTRIBUTE_WORDS]
    assert len(asked_places) == (64 if answering else 0)
    assert all(letter == right_letter(prompt) for prompt, letter in asked_places)
