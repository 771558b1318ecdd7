import pytest

from harness.channels.c2c import CacheToCache, Link
from harness.fusers.checkpoint import load
from harness.models.loading import load as load_model
from harness.paths import FACTWORLD_PAIR as PAIR
from harness.paths import TASKS
from harness.training.loop import load_quizzes, score
from harness.training.main import train
from harness.training.recipe import build


def accuracies(fuser):
    receiver, sharer = (load_model(str(PAIR / role), device="cpu") for role in ("receiver", "sharer"))
    channel = CacheToCache(receiver, (Link(sharer, fuser),))
    found = {name: score(items, channel, 64) for name, items in load_quizzes(["factworld_letters"], None).items()}
    assert all(one.errors == 0 and one.asked == 400 for one in found.values())
    return {name: one.right / one.asked for name, one in found.items()}


@pytest.mark.slow
def test_the_embedded_pair_reaches_about_the_accuracy_of_its_own_fuser(tmp_path):
    data = {"data": str(TASKS / "factworld" / "fuser_train.jsonl"), "prompt_of": "factworld_sharer_knows"}
    shape = {"hidden_dim": 64, "intermediate_dim": 128, "learning_rate": 3e-3, "device": "cpu", "progress": False}
    sizes = {"steps": 300, "global_batch": 64, "micro_batch": 64}
    pair = {"receiver": str(PAIR / "receiver"), "sharers": [str(PAIR / "sharer")], "output_path": str(tmp_path)}
    train(build({**pair, **data, **shape, **sizes}))
    own, ours = accuracies(load(PAIR / "fuser")), accuracies(load(tmp_path / "fuser"))
    # A fuser sees each fact in four questions here, and its own one saw new questions at every step.
    assert all(ours[name] > own[name] - 0.04 for name in own), (ours, own)
