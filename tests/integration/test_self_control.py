import pytest

from harness.config import build
from harness.errors import UserError
from harness.evaluation.run import run
from harness.fusers.checkpoint import save
from harness.models.loading import load
from harness.records import load_run
from harness.results import effects
from tests.support.tiny import random_fuser

PAIR = "tasks/relay/pair"
RECEIVER, SHARER = f"{PAIR}/receiver", f"{PAIR}/sharer"


@pytest.fixture(scope="module")
def receiver():
    return load(RECEIVER, device="cpu")


def asked(folder, own, **changes):
    given = {"receiver": RECEIVER, "sharers": [SHARER], "fusers": [f"{PAIR}/fuser"], "self_fuser": str(own)}
    small = {"limit": 6, "latency_samples": 2, "device": "cpu", "progress": False, "controls": ["self", "mean"]}
    values = {**given, **small, "channels": "receiver,c2c", "tasks": ["relay_one"], **changes}
    return run(build({**values, "output_path": str(folder)}))


def test_the_receiver_fused_with_itself_stands_beside_the_pair(receiver, tmp_path):
    save(random_fuser(receiver, receiver, seed=3), tmp_path / "own")
    loaded = load_run(asked(tmp_path / "run", tmp_path / "own"))
    arms = {sample.arm for sample in loaded.samples}
    assert arms == {("receiver", ""), ("c2c", ""), ("c2c", "mean"), ("c2c", "self")}
    found = {(e.kind, e.base) for e in effects(loaded.samples)}
    assert ("to_self", ("c2c", "self")) in found
    assert [fuser["role"] for fuser in loaded.record.fusers] == ["sharer", "self"]
    assert loaded.record.fusers[1]["reference"] == str(tmp_path / "own")


def test_a_run_does_not_go_on_with_another_self_fuser(receiver, tmp_path):
    own = tmp_path / "own"
    save(random_fuser(receiver, receiver, seed=3), own)
    asked(tmp_path / "run", own)
    save(random_fuser(receiver, receiver, seed=4), own)
    with pytest.raises(UserError, match="fuser_weights"):
        asked(tmp_path / "run", own, resume=True)
