import json

import pytest
import torch
from transformers import AutoTokenizer

from harness.factworld_build.models import FuserRecipe, Phase, load_model, one_thread, without_progress
from harness.factworld_build.world import RECEIVER, SHARER
from harness.fusers.checkpoint import load
from harness.relay_build.build import build, train_fuser, train_member
from harness.relay_build.eta import Shown
from harness.relay_build.questions import ONE, vocabulary
from harness.relay_build.recipe import Recipe, Rows
from harness.relay_build.rows import TAUGHT, exam_questions
from harness.relay_build.world import WorldConfig, build_world


def hasty(name, cooldown=0):
    return Phase(name, most_steps=2, enough=float("inf"), cooldown_steps=cooldown, demanded=False)


HASTY = Recipe(
    world=WorldConfig(places=12, names=48, held_out_names=12, untaught_facts=16),
    rows=Rows(reading=4, knowing=4, names=16, crowds=4, notes=2, letters=2),
    receiver=(hasty("read"), hasty("know", 1)),
    sharer=(hasty("where"), hasty("tell", 1)),
    fuser=FuserRecipe(hidden_dim=16, intermediate_dim=16, steps=2, batch=4, dropout=0.0),
)


@pytest.fixture(scope="module", autouse=True)
def _single_thread():
    with one_thread():
        yield


@pytest.mark.parametrize("name", [RECEIVER, SHARER])
def test_members_are_ordinary_folders_and_follow_from_their_seed(tmp_path, name):
    for folder, seed in (("one", 5), ("two", 5), ("three", 6)):
        train_member(name, seed, tmp_path / folder, HASTY, without_progress)
    one, two, three = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("one", "two", "three"))
    assert one == two != three
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    world = build_world(HASTY.world_seed, HASTY.world)
    assert len(tokenizer) == len(vocabulary(world)) == load_model(tmp_path / "one").config.vocab_size
    question = exam_questions(world, ONE, TAUGHT, 1)[0]
    assert tokenizer.decode(tokenizer.encode(question.text())) == question.text()


def test_a_build_writes_everything_tells_how_and_gives_the_same_fuser_again(tmp_path):
    events = []
    report = build(7, tmp_path, lambda *event: events.append(event), HASTY)
    assert {path.name for path in tmp_path.iterdir()} == {"receiver", "sharer", "fuser", "training.json"}
    assert json.loads(json.dumps(report)) == json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert report["seed"] == 7
    assert set(report["phases"]) == {"receiver", "sharer", "fuser"}
    assert set(report["held_out_accuracy"]) == {"one", "crowd"}
    fuser = load(tmp_path / "fuser")
    assert fuser.config.layer_map == ((0, 1), (1, 2), (2, 3))
    assert bool((fuser.gate_logit > 0).all())
    assert ("fuse", 2, 2) in {event[:3] for event in events}
    members = [load_model(tmp_path / name).requires_grad_(False) for name in (RECEIVER, SHARER)]
    world = build_world(HASTY.world_seed, HASTY.world)
    again, other = (train_fuser(*members, world, HASTY, seed, without_progress)[0].state_dict() for seed in (7, 8))
    assert all(torch.equal(value, again[name]) for name, value in fuser.state_dict().items())
    assert not all(torch.equal(value, other[name]) for name, value in fuser.state_dict().items())


def test_progress_says_how_long_it_may_still_take(capsys, monkeypatch):
    clock = iter([0.0, 4.0, 20.0])
    monkeypatch.setattr("harness.relay_build.eta.time.monotonic", lambda: next(clock))
    shown = Shown()
    for step in (0, 20, 100):
        shown("receiver know", step, 500, 1.5)
    assert capsys.readouterr().err == "receiver know: step 100 of at most 500, loss 1.500, at most 80 s left\n"
