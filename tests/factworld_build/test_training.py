from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from harness.errors import RunError
from harness.factworld_build.build import build, fuser_batches, new_fuser
from harness.factworld_build.fuser import fit_fuser, fused_logits, fuser_batch
from harness.factworld_build.models import (
    FuserRecipe,
    Phase,
    Recipe,
    load_model,
    one_thread,
    train_member,
    train_model,
    without_progress,
)
from harness.factworld_build.rows import WORLD_SEED
from harness.factworld_build.world import (
    RECEIVER,
    SHARER,
    WorldConfig,
    ask_many,
    build_facts,
    build_tokenizer,
    names_of,
    question_chat,
    random_stream,
    render,
    select_facts,
)
from harness.fusers.checkpoint import load

HASTY = Recipe(
    world=WorldConfig(names=8, attributes=2),
    read=Phase("read", most_steps=5, enough=float("inf")),
    know=Phase("know", most_steps=5, enough=float("inf"), cooldown_steps=2),
    fuser=FuserRecipe(hidden_dim=16, intermediate_dim=16, steps=2, batch=4),
    test_questions=4,
)
FACTS = build_facts(WORLD_SEED, HASTY.world)


@pytest.fixture(scope="module", autouse=True)
def _single_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A pair that was hardly trained, its report, and what the building told."""
    folder, events = tmp_path_factory.mktemp("pair"), []
    report = build(7, folder, lambda *event: events.append(event), HASTY)
    return folder, report, events


@pytest.fixture(scope="module")
def models(built):
    return load_model(built[0] / RECEIVER), load_model(built[0] / SHARER)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(names_of(FACTS))


def held_out(half, count):
    return ask_many(select_facts(FACTS, half, held_out=True), count, random_stream("test", 0))


def test_training_moves_the_fuser_and_nothing_else(models, tokenizer):
    before = [value.clone() for model in models for value in model.state_dict().values()]
    fuser = new_fuser(*models, FuserRecipe(hidden_dim=16, intermediate_dim=16))
    start = {name: value.detach().clone() for name, value in fuser.named_parameters()}
    fit_fuser(*models, fuser, fuser_batches(tokenizer, FACTS, 4, random_stream("fuser", 0)), 2)
    after = [value for model in models for value in model.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(not torch.equal(start[name], value) for name, value in fuser.named_parameters())


def test_a_closed_fuser_leaves_the_receiver_as_it_is(models, tokenizer):
    receiver, sharer = models
    fuser = new_fuser(receiver, sharer, FuserRecipe()).eval()
    batch = fuser_batch(tokenizer, held_out(RECEIVER, 8))
    with torch.no_grad():
        fused = fused_logits(receiver, sharer, fuser, batch)
        alone = receiver(batch.ids).logits[:, batch.prompt_tokens - 1 :]
    torch.testing.assert_close(fused, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [RECEIVER, SHARER])
def test_both_folders_load_the_worlds_tokenizer(built, tokenizer, name):
    loaded = AutoTokenizer.from_pretrained(built[0] / name)
    chats = [question_chat(question, "red") for question in held_out(SHARER, 8)]
    assert render(loaded, chats) == render(tokenizer, chats)


def test_a_phase_cools_down_once_its_level_is_reached():
    losses = iter([3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    model = torch.nn.Linear(1, 1)

    def step(_):
        loss = model.weight.sum() * 0 + next(losses)
        return loss, loss

    seen = []
    phase = Phase("toy", most_steps=10, enough=2.9, cooldown_steps=3)
    outcome = train_model(model, step, phase, random_stream("toy", 0), lambda *event: seen.append(event))
    assert outcome.steps == 3 + 3
    assert [event[1] for event in seen] == [1, 2, 3, 4, 5, 6]


def test_a_model_that_does_not_learn_is_refused():
    model = torch.nn.Linear(1, 1)

    def step(_):
        loss = model.weight.sum() * 0 + 3.0
        return loss, loss

    with pytest.raises(RunError, match=r"Phase 'toy' is still at loss 3\.00 after 4 steps"):
        train_model(model, step, Phase("toy", most_steps=4, enough=1.0), random_stream("toy", 0), without_progress)


def test_members_are_ordinary_folders_and_follow_from_their_seed(tmp_path):
    for name in ("one", "two"):
        train_member(SHARER, 5, tmp_path / name, HASTY, without_progress)
    first, second = (load_model(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_build_writes_everything_and_tells_how(built):
    folder, report, events = built
    assert {path.name for path in folder.iterdir()} == {"receiver", "sharer", "fuser", "training.json"}
    assert report["seed"] == 7
    assert set(report["phases"]) == {"receiver", "sharer", "fuser"}
    assert load(folder / "fuser").config.layer_map == ((0, 2), (1, 3), (2, 4))
    assert ("fuse", 2, 2) in {event[:3] for event in events}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_pair_can_be_built_from_any_seed(tmp_path, seed):
    held = build(seed, tmp_path, without_progress, replace(Recipe(), test_questions=400))["held_out_accuracy"]
    union = {name: (held[RECEIVER][name] + held[SHARER][name]) / 2 for name in held[SHARER]}
    assert held[SHARER]["c2c"] >= 0.8
    assert held[SHARER]["c2c"] - held[SHARER]["c2c_mismatched"] >= 0.5
    assert union["c2c"] - max(union["receiver"], union["sharer"], union["t2t"]) >= 0.15
