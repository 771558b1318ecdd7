import hashlib
import json
from collections import Counter

import pytest
import torch

from harness.factworld_build.world import LABELS
from harness.relay_build.build import place_batch
from harness.relay_build.lessons import IGNORED, Codec, Teacher, plain_batch, twin_batch
from harness.relay_build.questions import CROWD, FORMS, ONE, SLOTS, UNKNOWN, vocabulary
from harness.relay_build.rows import WORLD_SEED, exam_questions
from harness.relay_build.world import ATTRIBUTES, VALUES, build_world, random_stream

WORLD = build_world(WORLD_SEED)
CODEC = Codec(vocabulary(WORLD))
ATTRIBUTE_WORDS = {*ATTRIBUTES, *(value for values in VALUES.values() for value in values)}

DIGESTS = [(ONE, "5ecf9144c8ac4c72", "3c7f432a603dff40"), (CROWD, "7ae06a456e9a58e5", "d913845f854f762b")]


def teacher(form, seed=0):
    return Teacher(WORLD, CODEC, form, random_stream("test", seed))


def digest(*batches):
    """Of token ids and targets."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(json.dumps([batch.ids.tolist(), batch.targets.tolist()]).encode())
    return found.hexdigest()[:16]


def words_of(batch):
    return [CODEC.decode(row).split() for row in batch.ids.tolist()]


def every_kind(form):
    taught = teacher(form)
    for kind in (taught.written, taught.twin, taught.forced, taught.noted):
        for reading in (False, True):
            yield kind(taught.questions(64), reading)
    yield taught.unaided(taught.questions(64))


@pytest.mark.parametrize("form", FORMS)
def test_no_lesson_of_the_fuser_has_a_held_out_name_or_an_attribute(form):
    words = {word for row in words_of(place_batch(WORLD, CODEC, form, 400, random_stream("test", 0))) for word in row}
    assert not words & WORLD.held_out
    assert not words & ATTRIBUTE_WORDS
    assert words & set(WORLD.places)


@pytest.mark.parametrize("form", FORMS)
def test_the_receiver_is_never_told_where_a_name_lives(form):
    taught = teacher(form)
    names, places = set(), Counter()
    for question in taught.questions(3000):
        names |= set(question.names)
        places.update(WORLD.homes[name] == place for name, place in zip(question.names, question.places, strict=True))
    assert len(names) > 1000
    assert places[True] / places.total() < 0.04  # by chance 1 in 48


@pytest.mark.parametrize("form", FORMS)
def test_no_lesson_of_the_receiver_asks_about_an_untaught_fact(form):
    for question in teacher(form).questions(3000):
        assert question.fact not in WORLD.untaught
        if form == CROWD and question.attribute != "place":
            assert not {(place, question.attribute) for place in question.places} & WORLD.untaught


@pytest.mark.parametrize("form", FORMS)
def test_hints_and_looks_are_where_the_words_are(form):
    for batch in every_kind(form):
        rows = words_of(batch)
        letters = batch.hints.words[:, :4].tolist()
        assert letters == [CODEC.of(LABELS)] * len(rows)
        keys = batch.targets[:, -2].tolist()  # the letter before the end token
        for number, row in enumerate(rows):
            if form == ONE:
                assert [row[column - 1] for column in batch.hints.columns] == list(LABELS)
            else:
                assert CODEC.decode([int(batch.hints.words[number, 4])]) == row[row.index("?") - 1]
            if batch.look is not None:
                wanted = int(batch.look.wanted[number])
                assert batch.hints.columns[CODEC.of(LABELS).index(keys[number])] == wanted <= batch.look.column


@pytest.mark.parametrize("form", FORMS)
def test_forced_rows_teach_the_letter_and_the_end_alone(form):
    taught = teacher(form)
    asked = taught.questions(8)
    batch = taught.forced(asked, False)
    assert (batch.targets[:, :-2] == IGNORED).all()
    for row, question in zip(words_of(batch), asked, strict=True):
        assert row[-1 - len(question.places) : -1] == list(question.places)
        assert not set(row[: -1 - len(question.places)]) & ({*question.places} - {*question.choices, question.value})


@pytest.mark.parametrize("form", FORMS)
def test_twins_stand_at_their_names_positions_and_are_read_by_the_reply_alone(form):
    questions = exam_questions(WORLD, form, "taught", 1)[:4]
    base = plain_batch(CODEC, [q.prompt() for q in questions], [q.reply() for q in questions])
    batch = twin_batch(CODEC, base, SLOTS[form], [q.places for q in questions])
    positions, mask = batch.positions[0].tolist(), batch.mask[0, 0]
    twins = [column for column, position in enumerate(positions) if positions.index(position) != column]
    for row, question in zip(words_of(batch), questions, strict=True):
        assert [row[column] for column in twins] == list(question.places)
        assert [row[column - 1] for column in twins] == list(question.names)
    last_prompt = len(positions) - base.targets.shape[1]
    for query in range(len(positions)):
        seen = set(mask[query].nonzero().flatten().tolist())
        allowed = set(range(query + 1))
        if query >= last_prompt:
            assert seen == allowed - {column - 1 for column in twins}
        elif query in twins:
            assert seen == allowed - {*twins, query - 1} | {query}
        else:
            assert seen == allowed - set(twins)


def test_a_broken_note_is_answered_with_a_mark_for_each_place_that_it_lacks():
    taught = teacher(CROWD, seed=3)
    seen = set()
    for _ in range(60):
        for row in words_of(taught.noted(taught.questions(2), False)):
            reply = row[-5:-1]
            note = row[row.index("<|assistant|>") + 1 : row.index("<|user|>", 1) - 1]
            told = [word for word in note if word in WORLD.places]
            assert reply == [*told, *[UNKNOWN] * (4 - len(told))]
            seen.add(len(told))
    assert seen == {0, 1, 2, 3, 4}


def test_the_codec_is_the_tokenizer():
    from harness.factworld_build.world import word_tokenizer

    tokenizer = word_tokenizer(vocabulary(WORLD))
    for form in FORMS:
        question = exam_questions(WORLD, form, "taught", 1)[0]
        chat = [{"role": "user", "content": question.text()}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == CODEC.encode(question.prompt())
        assert CODEC.decode(ids) == question.prompt()
    assert torch.equal(torch.tensor(CODEC.of(LABELS)), torch.tensor(tokenizer.convert_tokens_to_ids(list(LABELS))))


@pytest.mark.parametrize(("form", "receivers", "fusers"), DIGESTS)
def test_lessons_follow_from_their_seed_whatever_the_process(form, receivers, fusers):
    """Texts are hashed anew by every process, so an order that comes from a set would differ from these digests."""
    assert digest(*every_kind(form)) == receivers
    assert digest(place_batch(WORLD, CODEC, form, 64, random_stream("fuser", 0))) == fusers
