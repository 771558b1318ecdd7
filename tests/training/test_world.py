import json

import pytest

from harness.channels.c2c import CacheToCache, Link
from harness.fusers.checkpoint import load
from harness.models.loading import load as load_model
from harness.paths import PAIR
from harness.relay_build.questions import FORMS, draw_question
from harness.relay_build.rows import WORLD_SEED
from harness.relay_build.world import PLACE, build_world, random_stream
from harness.training.loop import load_quizzes, score
from harness.training.main import train
from harness.training.recipe import build


def accuracies(fuser):
    receiver, sharer = (load_model(str(PAIR / role), device="cpu") for role in ("receiver", "sharer"))
    channel = CacheToCache(receiver, (Link(sharer, fuser),))
    found = {name: score(items, channel, 64) for name, items in load_quizzes(["relay", "relay_places"], 100).items()}
    assert all(one.errors == 0 and one.asked == 100 for one in found.values())
    return {name: one.right / one.asked for name, one in found.items()}


def lessons_on_disk(folder, count):
    """Chats about places and names that are not held out, as the pair's own fuser learned them."""
    world, rng = build_world(WORLD_SEED), random_stream("chats", 0)
    names, path = world.names_by_place(held_out=False), folder / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked = draw_question(world, FORMS[number % len(FORMS)], (rng.choice(world.places), PLACE), names, rng)
            turns = (("user", asked.text()), ("assistant", asked.reply()))
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    return path


@pytest.mark.slow
def test_the_embedded_pair_reaches_about_the_accuracy_of_its_own_fuser(tmp_path):
    data = {"data": str(lessons_on_disk(tmp_path, 128 * 200)), "initial_gate": 2, "dropout": 0.0}
    shape = {"hidden_dim": 64, "intermediate_dim": 128, "learning_rate": 3e-3, "device": "cpu", "progress": False}
    sizes = {"steps": 200, "global_batch": 128, "micro_batch": 128}
    pair = {"receiver": str(PAIR / "receiver"), "sharers": [str(PAIR / "sharer")], "output_path": str(tmp_path / "out")}
    train(build({**pair, **data, **shape, **sizes}))
    own, ours = accuracies(load(PAIR / "fuser")), accuracies(load(tmp_path / "out" / "fuser"))
    assert all(ours[name] > own[name] - 0.1 for name in own), (ours, own)
