import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import RunError, UserError
from harness.fusers.checkpoint import load, read_header
from harness.records.files import COST_FILE
from harness.training.main import train
from tests.support.training_runs import (
    FOREIGN,
    chats_on_disk,
    logged,
    pair_on_disk,
    recipe,
    stopping_at,
    values,
    weights,
)

ROOT = Path(__file__).parents[2]


def read_position(out):
    """Where the newest checkpoint says that a run stands."""
    newest = max((out / "checkpoints").glob("step-*"))
    return json.loads((newest / "state.json").read_text())["position"]


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing interrupts."""
    out = folder / "whole"
    train(recipe(folder, out))
    return out


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_training_lowers_the_loss_and_leaves_a_fuser_with_its_origin(folder, whole):
    out = folder / "long"
    train(recipe(folder, out, steps=30, save_every=30, learning_rate=1e-2, dropout=0.0))
    loss = logged(out)
    assert sum(loss[-3:]) < 0.8 * sum(loss[:3])
    header = read_header(whole / "fuser")
    assert header.config.anneal_steps == 6
    assert header.provenance["step"] == 6
    assert header.provenance["recipe"]["seed"] == 0
    assert len(header.provenance["weights_sha256"]) == 2
    assert not torch.equal(load(out / "fuser").gate_logit, load(whole / "fuser").gate_logit)


def test_a_run_that_changes_a_frozen_model_fails(folder):
    from harness.training import loop

    def spoiling(self):
        with torch.no_grad():
            next(self.session.models[1].model.parameters()).flatten()[0] += 1
        return self.position

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "run", spoiling)
        with pytest.raises(RunError, match="frozen model's weights have changed"):
            train(recipe(folder, folder / "spoilt"))


def test_the_frozen_models_are_what_they_were(folder):
    from harness.training.main import _loop
    from harness.training.prompt_cache import weights_sha256
    from harness.training.setup import open_session

    (folder / "frozen").mkdir(exist_ok=True)
    session = open_session(recipe(folder, folder / "frozen"))
    before = [weights_sha256(lm) for lm in session.models]
    buffers = [{name: value.clone() for name, value in lm.model.named_buffers()} for lm in session.models]
    _loop(session, before).run()
    assert [weights_sha256(lm) for lm in session.models] == before
    for lm, kept in zip(session.models, buffers, strict=True):
        assert_same_bits(dict(lm.model.named_buffers()), kept)
        assert all(value.grad is None for value in lm.model.parameters())


def test_a_run_that_stops_and_resumes_ends_in_the_same_bits(folder, whole):
    out = folder / "stopped"
    with stopping_at(3):
        train(recipe(folder, out))
    assert not (out / "fuser").exists()
    stopped = read_position(out)["cpu_s"]
    train(recipe(folder, out, resume=True))
    assert_same_bits(weights(out), weights(whole))
    assert logged(out) == logged(whole)
    spent = json.loads((out / "fuser" / COST_FILE).read_text())["train_cpu_s"]
    assert spent == pytest.approx(read_position(out)["cpu_s"], abs=0.1)
    assert spent > stopped > 0
    moments = Path("checkpoints") / "step-00000006" / "optimizer.safetensors"
    assert_same_bits(load_file(out / moments), load_file(whole / moments))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(folder, tmp_path):
    short = {"steps": 400, "save_every": 7, "output_path": str(tmp_path / "whole")}
    train(recipe(folder, tmp_path / "whole", **short))
    killed = tmp_path / "killed"
    run = subprocess.Popen(_command(folder, killed, short), cwd=ROOT, env=_environment())
    deadline = time.monotonic() + 120
    while len(list((killed / "checkpoints").glob("step-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(int.from_bytes(os.urandom(1), "big") / 256)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert 0 < len(logged(killed)) < 400
    train(recipe(folder, killed, **{**short, "output_path": str(killed)}, resume=True))
    assert_same_bits(weights(killed), weights(tmp_path / "whole"))
    assert logged(killed) == logged(tmp_path / "whole")


def _command(folder, out, changes):
    settings = out.parent / f"{out.name}.json"
    settings.write_text(json.dumps(values(folder, out, **{**changes, "output_path": str(out)})))  # JSON is YAML
    return [sys.executable, "-m", "harness.training", "--config", str(settings)]


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_kept_messages_give_the_same_run_whatever_is_kept(folder, tmp_path, place):
    everything, nothing = tmp_path / "everything", tmp_path / "nothing"
    train(recipe(folder, everything, cache_messages=place))
    train(recipe(folder, nothing, cache_messages=place, cache_gib=0))
    assert_same_bits(weights(everything), weights(nothing))
    assert (len(list(everything.rglob("messages/*/*.safetensors"))) > 0) == (place == "disk")
    # Prompts are read alone there and in batches otherwise: the same numbers but for the order of their sums.
    plain = tmp_path / "plain"
    train(recipe(folder, plain))
    assert logged(everything) == pytest.approx(logged(plain), rel=1e-4)


def test_recomputing_activations_changes_no_bit(folder, whole, tmp_path):
    train(recipe(folder, tmp_path / "out", gradient_checkpointing=True))
    assert logged(tmp_path / "out") == logged(whole)
    assert_same_bits(weights(tmp_path / "out"), weights(whole))


def test_the_learning_rate_warms_up_and_decays_and_the_gates_cool(folder, tmp_path):
    train(recipe(folder, tmp_path, steps=10, warm_up=0.2, learning_rate=1e-3, save_every=10))
    rates = logged(tmp_path, "learning_rate")
    assert rates == pytest.approx([0, 5e-4, *(1e-3 * (10 - step) / 8 for step in range(2, 10))])
    temperature = logged(tmp_path, "temperature")
    assert temperature == pytest.approx([0.001 ** (step / 10) for step in range(10)], rel=1e-5)


def test_an_aligned_pair_with_two_sharers_trains_and_validates(tmp_path):
    pair_on_disk(tmp_path, FOREIGN)
    chats_on_disk(tmp_path)
    both = [str(tmp_path / "sharer")] * 2
    out = tmp_path / "out"
    train(recipe(tmp_path, out, sharers=both, fusion_mode="parallel", held_out_rows=5, validate_every=3, official=True))
    assert len(logged(out, "held_out_loss")) == 2
    assert not torch.equal(load(out / "fuser-0").gate_logit, load(out / "fuser-1").gate_logit)
    for name in ("fuser-0", "fuser-1"):
        assert_same_bits(dict(load(out / "official" / name).state_dict()), weights(out, name))
        assert read_header(out / "best" / name).provenance["step"] in {3, 6}


def test_a_task_is_scored_with_the_harness_own_engine(folder, tmp_path):
    train(recipe(folder, tmp_path, validate_tasks=["factworld_sharer_knows_letters"], validate_limit=6))
    accuracy = logged(tmp_path, "accuracy/factworld_sharer_knows_letters")
    assert len(accuracy) == 1
    assert accuracy[0] * 6 == pytest.approx(round(accuracy[0] * 6))


def test_keys_alone_leave_the_gates_of_the_values_shut(folder, tmp_path):
    train(recipe(folder, tmp_path, fuse_kinds="k", fuse_layers="1-2", steps=2))
    fuser = load(tmp_path / "fuser")
    assert [ours for ours, _ in fuser.config.layer_map] == [1, 2]
    assert (fuser.gates()[1] < 0).all()
    assert (fuser.gates()[0] != 0).all()


def test_only_the_newest_checkpoints_and_the_best_are_kept(folder, tmp_path):
    train(recipe(folder, tmp_path, save_every=1, keep=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000006"]


def test_training_goes_on_from_a_given_fuser(folder, whole, tmp_path):
    train(recipe(folder, tmp_path, init=[str(whole / "fuser")], steps=1, learning_rate=1e-9))
    given, after = weights(whole), weights(tmp_path)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in given.items() if "temp" not in name)


def test_what_cannot_be_resumed_or_started_is_refused(folder, whole, tmp_path):
    with pytest.raises(UserError, match="already holds a training run; add --resume"):
        train(recipe(folder, whole))
    with pytest.raises(UserError, match="trained with another learning_rate"):
        train(recipe(folder, whole, resume=True, learning_rate=1.0))
    with pytest.raises(RunError, match="longer than 3 tokens"):
        train(recipe(folder, tmp_path / "short", max_length=3))
    with pytest.raises(UserError, match="fuse_layers is '7'"):
        train(recipe(folder, tmp_path / "layers", fuse_layers="7"))


def test_a_training_that_had_not_begun_starts_when_it_is_resumed(folder, whole, tmp_path):
    train(recipe(folder, tmp_path / "new", resume=True))
    assert logged(tmp_path / "new") == logged(whole)
    assert_same_bits(weights(tmp_path / "new"), weights(whole))


def test_a_damaged_optimizer_file_is_named(folder, tmp_path):
    train(recipe(folder, tmp_path, steps=2))
    file = tmp_path / "checkpoints" / "step-00000002" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"optimizer\.safetensors is damaged"):
        train(recipe(folder, tmp_path, steps=2, resume=True))


def test_an_exploding_loss_ends_the_run_with_a_sentence(folder, tmp_path):
    with pytest.raises(RunError, match="not finite|The loss is"):
        train(recipe(folder, tmp_path, learning_rate=1e30, warm_up=0.0, steps=20))


def test_tensorboard_logs_are_written_where_asked_for(folder, tmp_path):
    pytest.importorskip("tensorboard")
    train(recipe(folder, tmp_path, steps=1, tensorboard=True))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_template_that_draws_is_refused_before_anything_is_learned(folder, tmp_path):
    template = tmp_path / "draws.jinja"
    template.write_text("{{ lipsum(n=1) }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(UserError, match="writes another text every time"):
        train(recipe(folder, tmp_path / "out", receiver_chat_template=str(template)))
