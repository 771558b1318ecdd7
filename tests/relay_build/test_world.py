import json
from collections import Counter

import pytest

from harness.relay_build.questions import CROWD, FORMS, ONE, draw_question, vocabulary
from harness.relay_build.rows import (
    FOLDER,
    PLACES,
    ROUNDS,
    TAUGHT,
    UNTAUGHT,
    WORLD_SEED,
    doc_to_text,
    doc_to_told_text,
    exam_questions,
    facts_of,
    render_file,
)
from harness.relay_build.world import ATTRIBUTES, PLACE, VALUES, WorldConfig, build_world, random_stream

WORLD = build_world(WORLD_SEED)
ROWS = [json.loads(line) for line in (FOLDER / "test.jsonl").read_text(encoding="utf-8").splitlines()]
PARTS = [(form, split) for form in FORMS for split in ROUNDS]


def part(form, split):
    return [row for row in ROWS if (row["form"], row["split"]) == (form, split)]


def test_the_committed_questions_follow_from_the_seed_byte_for_byte():
    assert (FOLDER / "test.jsonl").read_bytes() == render_file(WORLD).encode()


def test_worlds_follow_from_their_seed_alone():
    assert build_world(3) == build_world(3)
    assert build_world(3) != build_world(4)


def test_every_value_is_at_four_places_and_untaught_at_one_of_them():
    for attribute in ATTRIBUTES:
        everywhere = Counter(WORLD.values[place, attribute] for place in WORLD.places)
        untaught = Counter(WORLD.values[fact] for fact in WORLD.untaught if fact[1] == attribute)
        assert everywhere == dict.fromkeys(VALUES[attribute], 4)
        assert untaught == dict.fromkeys(VALUES[attribute], 1)
    assert (len(WORLD.taught), len(WORLD.untaught)) == (144, 48)


def test_untaught_facts_are_spread_over_the_places():
    assert max(Counter(place for place, _ in WORLD.untaught).values()) <= 2


def test_names_live_as_evenly_as_their_number_allows_held_out_or_not():
    for held_out, count in ((True, 320), (False, 1280)):
        sizes = [len(names) for names in WORLD.names_by_place(held_out).values()]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1


def test_no_word_of_the_world_has_two_meanings():
    words = vocabulary(WORLD)
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("form", "split"), PARTS)
def test_each_fact_is_asked_about_equally_often_and_each_letter_is_right_equally_often(form, split):
    asked = exam_questions(WORLD, form, split)
    rows = part(form, split)
    assert [row["key"] for row in rows] == ["ABCD"[question.key] for question in asked]
    assert Counter(question.fact for question in asked) == dict.fromkeys(facts_of(WORLD, split), ROUNDS[split])
    assert len(set(Counter(row["key"] for row in rows).values())) == 1


@pytest.mark.parametrize(("form", "split"), PARTS)
def test_tests_ask_about_held_out_names_and_the_key_follows_from_both_hops(form, split):
    for question in exam_questions(WORLD, form, split):
        assert set(question.names) <= WORLD.held_out
        assert [WORLD.homes[name] for name in question.names] == list(question.places)
        there = [_at(place, question.attribute) for place in question.places]
        if form == ONE:
            assert question.choices[question.key] == there[0]
        else:
            assert [number for number, value in enumerate(there) if value == question.value] == [question.key]
            assert question.choices == question.names


def _at(place, attribute):
    return place if attribute == PLACE else WORLD.values[place, attribute]


def test_in_a_crowd_all_four_facts_are_taught_or_all_are_untaught():
    for split in (TAUGHT, UNTAUGHT):
        for question in exam_questions(WORLD, CROWD, split):
            facts = [(place, question.attribute) for place in question.places]
            assert {fact in WORLD.untaught for fact in facts} == {split == UNTAUGHT}


def test_the_name_stands_before_what_is_asked():
    for row in ROWS:
        words = doc_to_text(row).split()
        last_name = max(words.index(name) for name in words if name in WORLD.homes)
        asked = words.index(row["category"]) if row["form"] == ONE else len(words) - 2
        assert last_name < asked


def test_told_questions_have_places_in_the_stead_of_names_and_nothing_else_changed():
    for row in ROWS:
        told = [WORLD.homes.get(word, word) for word in doc_to_text(row).split()]
        assert doc_to_told_text(row).split() == told


def test_clusters_are_names_or_where_facts_are_the_test_facts():
    for row in ROWS:
        if row["split"] == UNTAUGHT:
            assert tuple(row["subject"].split("-")) in WORLD.untaught
        else:
            assert row["subject"] in WORLD.held_out


def test_a_question_keeps_its_meaning_under_another_letter():
    names = WORLD.names_by_place()
    for form in FORMS:
        question = draw_question(WORLD, form, WORLD.taught[0], names, random_stream("test", 0))
        for key in range(4):
            moved = question.keyed(key)
            assert moved.key == key
            assert moved.fact == question.fact
            assert moved.choices[key] == question.choices[question.key]
            assert sorted(moved.choices) == sorted(question.choices)


def test_notes_name_every_place_and_are_as_long_as_their_form():
    for form, tokens in ((ONE, 4), (CROWD, 20)):
        question = exam_questions(WORLD, form, PLACES)[0]
        words = question.note().split()
        assert len(words) == tokens
        assert [word for word in words if word in WORLD.places] == list(question.places)


def test_a_small_world_keeps_the_same_promises():
    small = build_world(1, WorldConfig(places=12, names=48, held_out_names=12, untaught_facts=16))
    assert len(small.untaught) == 16
    assert len(small.held_out) == 12
    assert {place for question in exam_questions(small, CROWD, TAUGHT, 1) for place in question.places} <= set(
        small.places
    )
