import json
from collections import Counter

import pytest
import yaml

from harness.factworld_build.rows import FOLDER, WORLD_SEED, render_files
from harness.factworld_build.world import (
    RECEIVER,
    SHARER,
    T2T_PROMPT,
    WorldConfig,
    build_facts,
    draw_question,
    random_stream,
    select_facts,
)


def committed(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_generator_reproduces_the_committed_rows_byte_for_byte():
    for name, text in render_files(build_facts(WORLD_SEED)).items():
        assert (FOLDER / name).read_bytes() == text.encode(), name


def test_test_and_training_rows_share_no_fact():
    test, train = committed("test.jsonl"), committed("fuser_train.jsonl")
    assert not {row["subject"] for row in test} & {row["subject"] for row in train}
    assert not {row["question"] for row in test} & {row["question"] for row in train}
    assert all(row["held_out"] for row in test)
    assert not any(row["held_out"] for row in train)


@pytest.mark.parametrize("half", [RECEIVER, SHARER])
def test_each_half_has_400_questions_on_96_facts_asked_about_equally_often(half):
    times = Counter(row["subject"] for row in committed("test.jsonl") if row["known_by"] == half)
    assert (sum(times.values()), len(times)) == (400, 96)
    assert max(times.values()) - min(times.values()) <= 1


def test_every_key_names_the_colour_of_the_fact():
    colors = {fact.id: fact.color for fact in build_facts(WORLD_SEED)}
    for row in committed("test.jsonl") + committed("fuser_train.jsonl"):
        assert row["choices"][row["labels"].index(row["key"])] == colors[row["subject"]]
        assert len(set(row["choices"])) == 4


def test_worlds_follow_from_their_seed_alone():
    assert build_facts(3) == build_facts(3)
    assert build_facts(3) != build_facts(4)


def test_every_fact_belongs_to_one_model_and_both_know_as_many():
    facts = build_facts(1, WorldConfig(names=10, attributes=3, held_out=0.2))
    assert len({fact.id for fact in facts}) == len(facts) == 30
    for half in (RECEIVER, SHARER):
        assert (len(select_facts(facts, half)), len(select_facts(facts, half, held_out=True))) == (15, 3)


def test_keys_are_spread_over_all_letters():
    fact, rng = build_facts(0)[0], random_stream("letters", 0)
    times = Counter(draw_question(fact, rng).key for _ in range(400))
    assert min(times.values()) > 60


def test_tasks_ask_the_sharer_as_it_was_trained_to_be_asked():
    for path in FOLDER.glob("factworld_*_knows*.yaml"):
        text = path.read_text(encoding="utf-8").replace("!function ", "")
        assert yaml.safe_load(text)["metadata"]["t2t_prompt"] == T2T_PROMPT
