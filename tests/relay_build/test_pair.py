"""The carried pair does what the world promises, in batches and through the harness."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.factworld_build.models import load_model, one_thread, without_progress
from harness.fusers.checkpoint import load
from harness.paths import PAIR
from harness.relay_build.build import train_fuser
from harness.relay_build.judge import Judge, said_rightly
from harness.relay_build.lessons import Codec
from harness.relay_build.measure import letter_ensemble, trained_letters
from harness.relay_build.questions import FORMS, ONE, vocabulary
from harness.relay_build.recipe import Recipe
from harness.relay_build.rows import PLACES, TAUGHT, UNTAUGHT, WORLD_SEED, exam_questions
from harness.relay_build.world import build_world

WORLD = build_world(WORLD_SEED)
HIGHEST_GUESS = 0.32


@pytest.fixture(scope="module", autouse=True)
def _single_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def judge():
    receiver, sharer = (load_model(PAIR / name).requires_grad_(False) for name in ("receiver", "sharer"))
    return Judge(receiver, sharer, Codec(vocabulary(WORLD)))


@pytest.fixture(scope="module")
def fuser():
    return load(PAIR / "fuser")


def test_the_weights_are_small():
    assert sum(path.stat().st_size for path in PAIR.rglob("*.safetensors")) < 5_000_000


@pytest.mark.parametrize("form", FORMS)
def test_only_the_message_answers(judge, fuser, form):
    asked = exam_questions(WORLD, form, TAUGHT)
    ours, theirs = judge.alone(judge.receiver, asked), judge.alone(judge.sharer, asked)
    guesses = [
        ours,
        theirs,
        *(letter_ensemble(ours.letters, theirs.letters, rule) for rule in ("mean", "product", "confident")),
    ]
    guesses += [judge.together(asked, rule) for rule in ("mean", "product")]
    guesses += [judge.fused(fuser, asked, change=lambda message: message.mean(2, keepdim=True).expand_as(message))]
    assert max(answers.accuracy(asked) for answers in guesses) < HIGHEST_GUESS
    fused = judge.fused(fuser, asked)
    assert fused.accuracy(asked) > 0.85
    assert said_rightly(judge, fused, asked) > 0.95
    assert judge.told(asked).accuracy(asked) > 0.95
    assert judge.noted(asked, judge.notes(asked, 32)).accuracy(asked) > 0.95


def test_a_short_training_makes_the_matched_message_worth_more_than_another(judge):
    recipe = Recipe(fuser=replace(Recipe().fuser, steps=60, batch=32))
    fuser, _ = train_fuser(judge.receiver, judge.sharer, WORLD, recipe, 1, without_progress)
    asked = exam_questions(WORLD, ONE, PLACES)
    others = asked[len(asked) // 2 :] + asked[: len(asked) // 2]
    assert judge.fused(fuser, asked).accuracy(asked) > judge.fused(fuser, asked, donors=others).accuracy(asked) + 0.2


@pytest.mark.parametrize("form", FORMS)
def test_an_mlp_on_both_models_letters_is_no_better_than_a_guess(judge, form):
    asked = exam_questions(WORLD, form, TAUGHT)
    assert trained_letters(judge, WORLD, form, asked).accuracy(asked) < HIGHEST_GUESS


@pytest.mark.parametrize("form", FORMS)
def test_the_letter_comes_from_the_places_that_were_said(judge, form):
    asked = exam_questions(WORLD, form, TAUGHT)
    assert judge.forced(asked).accuracy(asked) > 0.9


@pytest.mark.parametrize("form", FORMS)
def test_places_are_answered_by_the_message_alone_and_untaught_facts_by_nothing(judge, fuser, form):
    places, untaught = exam_questions(WORLD, form, PLACES), exam_questions(WORLD, form, UNTAUGHT)
    assert judge.fused(fuser, places).accuracy(places) > 0.9
    assert judge.alone(judge.sharer, places).accuracy(places) < 0.4
    told, fused = judge.told(untaught).accuracy(untaught), judge.fused(fuser, untaught).accuracy(untaught)
    assert max(told, fused) < 0.4
    assert abs(told - fused) < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_the_harness_gives_the_same_letters(judge, fuser, form, tmp_path):
    flags = ["--channels", "receiver,c2c", "--controls", "", "--latency_samples", "0", "--no-progress"]
    task = f"relay_{form}"
    assert cli.main(["run", "--tasks", task, "--limit", "24", *flags, "--output_path", str(tmp_path / "run")]) == 0
    lines = Path(tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    asked = exam_questions(WORLD, form, TAUGHT)
    for channel, answers in (("receiver", judge.alone(judge.receiver, asked)), ("c2c", judge.fused(fuser, asked))):
        found = {s["position"]: s["predicted"] for s in samples if s["channel"] == channel}
        assert len(found) == 24
        assert found == {place: "ABCD"[int(answers.letters[place].argmax())] for place in found}
