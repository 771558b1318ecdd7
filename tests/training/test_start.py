"""How a fuser starts, and that what only makes training faster changes nothing but rounding."""

import re
import shutil

import pytest
import torch

from harness.errors import UserError
from harness.training.main import train
from harness.training.setup import open_session
from tests.support.training_runs import logged, recipe


def test_a_fuser_that_starts_from_nothing_leaves_the_receiver_alone(folder):
    shut = logged_first(folder, "shut", initial_gate=-200.0)
    nothing = logged_first(folder, "nothing", zero_output=True)
    usual = logged_first(folder, "usual")
    assert nothing == pytest.approx(shut, rel=1e-6)
    assert abs(usual - shut) > 1e-3


def logged_first(folder, name, **changes):
    train(recipe(folder, folder / name, steps=1, **changes))
    return logged(folder / name)[0]


def test_gates_start_where_the_recipe_says(folder):
    session = open_session(recipe(folder, folder / "gates", initial_gate=2.0))
    assert torch.equal(session.objective.channel.links[0].fuser.gate_logit, torch.full((6,), 2.0))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_fuser_learns_what_the_usual_one_does(folder):
    calm = {"dropout": 0.0, "initial_gate": 50.0}  # the compiler draws other random numbers
    train(recipe(folder, folder / "plain", **calm))
    train(recipe(folder, folder / "compiled", compile=True, **calm))
    assert logged(folder / "compiled") == pytest.approx(logged(folder / "plain"), rel=1e-4)


def test_kept_messages_are_shared_by_runs_on_the_same_data_and_by_no_other(folder):
    kept = {"cache_messages": "disk", "messages_dir": str(folder / "kept")}
    train(recipe(folder, folder / "first", **kept))
    (store,) = (folder / "kept").iterdir()
    written = {file: file.stat().st_mtime_ns for file in store.iterdir()}
    train(recipe(folder, folder / "second", seed=1, **kept))
    again = {file: file.stat().st_mtime_ns for file in store.iterdir()}
    assert written.items() <= again.items()
    data = folder / "chats.jsonl"
    whole = data.read_text()
    data.write_text("".join(reversed(whole.splitlines(keepends=True))))
    try:
        train(recipe(folder, folder / "third", **kept))
    finally:
        data.write_text(whole)
    assert len(list((folder / "kept").iterdir())) == 2


def test_a_lora_run_refuses_what_only_fusers_have(folder):
    with pytest.raises(UserError, match="zero_output"):
        recipe(folder, folder / "lora", method="lora", sharers=[], zero_output=True)


def test_a_standard_start_reads_mean_0_and_variance_1(folder):
    from harness.training.dataloader import Batches
    from harness.training.setup import _fed, standardise_inputs

    session = open_session(recipe(folder, folder / "standard", attention="eager"))
    channel = session.objective.channel
    lessons = Batches(session.recipe, session.corpus, channel).first(8)
    standardise_inputs(channel, lessons)
    (link,) = channel.links
    fed = torch.cat([torch.cat(_fed(link, 0, lesson, channel.keep(lesson)), -1) for lesson in lessons], 1)
    read = torch.baddbmm(link.fuser.in_bias[:, None], fed, link.fuser.in_weight.transpose(1, 2))
    assert read.mean(1).abs().max() < 0.5  # what is left is the drawn bias
    assert 0.5 < read.var(1).mean() < 2.0


def test_a_standard_start_is_the_same_however_often_it_is_made(folder):
    for name in ("once", "twice"):
        train(recipe(folder, folder / name, standard_rows=8, steps=1))
    assert logged(folder / "once") == logged(folder / "twice")
    train(recipe(folder, folder / "drawn", steps=1))
    assert logged(folder / "drawn") != logged(folder / "once")


def test_a_training_says_what_begins_before_its_first_step(folder, capsys):
    train(recipe(folder, folder / "told", standard_rows=8, steps=2, log_every=2, progress=True))
    said = re.findall(r"^(Reading 8 prompts|Training 2 steps|step 2/2)", capsys.readouterr().err, re.MULTILINE)
    assert said == ["Reading 8 prompts", "Training 2 steps", "step 2/2"]
    train(recipe(folder, folder / "silent", standard_rows=8, steps=2, log_every=2, progress=False))
    assert "2 steps" not in capsys.readouterr().err


def test_a_resumed_run_does_not_start_over(folder):
    train(recipe(folder, folder / "straight", standard_rows=8))
    train(recipe(folder, folder / "halted", standard_rows=8))
    checkpoints = sorted((folder / "halted" / "checkpoints").iterdir())
    shutil.rmtree(checkpoints[-1])
    train(recipe(folder, folder / "halted", standard_rows=8, resume=True))
    assert logged(folder / "halted")[:6] == logged(folder / "straight")
