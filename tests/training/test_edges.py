"""What goes wrong at the edges of a training: rows without use, changed prompts, settings that cannot be meant."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.channels.layer_selection import chosen_layers
from harness.errors import RunError, UserError
from harness.fusers.checkpoint import load
from harness.training.loop import Loop
from harness.training.main import train
from tests.support.training_runs import logged, recipe, stopping_at, values, weights

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ SEP }} {% endfor %}"


def template(folder, separator):
    """A chat template that is the same file whatever it says."""
    path = folder / "chat.jinja"
    path.write_text(TEMPLATE.replace("SEP", repr(separator)), encoding="utf-8")
    return str(path)


def test_kept_messages_and_checkpoints_belong_to_the_prompts_as_they_were_written(folder, tmp_path):
    kept = {"cache_messages": "disk", "messages_dir": str(tmp_path / "kept")}
    for separator, out in (("?", tmp_path / "first"), (".", tmp_path / "second")):
        train(recipe(folder, out, receiver_chat_template=template(tmp_path, separator), steps=2, **kept))
    fresh = recipe(folder, tmp_path / "fresh", receiver_chat_template=template(tmp_path, "."), steps=2)
    train(fresh.model_copy(update={"cache_messages": "memory"}))
    assert logged(tmp_path / "second") == logged(tmp_path / "fresh") != logged(tmp_path / "first")
    with pytest.raises(UserError, match="trained with another prompts_sha256"):
        train(recipe(folder, tmp_path / "first", receiver_chat_template=fresh.receiver_chat_template, steps=2,
                     resume=True, **kept))  # fmt: skip


def rows_on_disk(path, answered):
    """Chats, some of which nobody has answered."""
    told = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because so it is."}]
    rows = [{"messages": told if yes else told[:1]} for yes in answered]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_step_without_use_moves_nothing_and_the_run_goes_on(folder, tmp_path):
    single = {"global_batch": 1, "micro_batch": 1, "steps": 9, "log_every": 3, "save_every": 1, "dropout": 0.0}
    data = rows_on_disk(tmp_path / "rows.jsonl", [False] + [True] * 5 + [False] * 3)
    train(recipe(folder, tmp_path / "out", data=data, **single))
    assert logged(tmp_path / "out", "skipped")[-1] == 4
    for stop in range(1, 9):  # a checkpoint before, at and behind every step that taught nothing
        out = tmp_path / f"stopped{stop}"
        with stopping_at(stop):
            train(recipe(folder, out, data=data, **single))
        train(recipe(folder, out, data=data, resume=True, **single))
        assert all(torch.equal(value, weights(out)[name]) for name, value in weights(tmp_path / "out").items())


def test_data_without_any_answer_is_an_error(folder, tmp_path):
    data = rows_on_disk(tmp_path / "rows.jsonl", [False] * 9)
    with pytest.raises(RunError, match="None of 16 rows can be learned from"):
        train(recipe(folder, tmp_path / "out", data=data))
    with pytest.raises(UserError, match="none of them can be learned from; raise it"):
        train(recipe(folder, tmp_path / "standard", data=data, standard_rows=2))


def test_a_loss_that_is_no_number_is_counted_and_never_the_best(folder, tmp_path):
    from harness.training.main import _loop
    from harness.training.setup import open_session

    session = open_session(recipe(folder, tmp_path, held_out_rows=4, validate_every=1, steps=3))
    usual, seen = session.objective.evaluated_loss, iter([math.nan, 0.0, 0.0, 0.0, 0.0, 0.0])
    session.objective.evaluated_loss = lambda lessons: usual(lessons) + next(seen)
    loop = _loop(session, ["", ""])
    loop.run()
    loop.log.close()
    assert logged(tmp_path, "held_out_errors") == [2.0]
    assert len(logged(tmp_path, "held_out_loss")) == 2
    assert loop.position.best_step in {2, 3}
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_a_given_fuser_keeps_its_form_and_takes_the_recipes_schedule(folder, tmp_path):
    train(recipe(folder, tmp_path / "given", steps=2, fuse_layers="1-2"))
    init = {"init": [str(tmp_path / "given" / "fuser")], "steps": 3}
    with pytest.raises(UserError, match="was built with another hidden_dim, fuse_layers"):
        train(recipe(folder, tmp_path / "wider", fuse_layers="0-2", **init | {"hidden_dim": 32}))
    with pytest.raises(UserError, match="starts as it is, without initial_gate, standard_rows"):
        recipe(folder, tmp_path / "start", initial_gate=3.0, standard_rows=8, **init)
    train(recipe(folder, tmp_path / "on", dropout=0.25, **init))
    config = load(tmp_path / "on" / "fuser").config
    assert (config.dropout, config.anneal_steps, [ours for ours, _ in config.layer_map]) == (0.25, 3, [1, 2])


def test_messages_are_kept_where_they_are_kept_at_all(folder, tmp_path):
    with pytest.raises(UserError, match="messages_dir is used with --cache-messages disk alone"):
        recipe(folder, tmp_path, messages_dir=str(tmp_path / "kept"))


@pytest.mark.parametrize("text", ["0-3,9-5", "1-2-3", "-1", "", "a", "0-7", "2-", "1,"])
def test_a_choice_of_layers_that_cannot_be_meant_is_refused(text):
    with pytest.raises(UserError, match="give layers from 0 to 6"):
        chosen_layers(text, 7)


def test_a_choice_of_layers_is_read():
    assert chosen_layers("0-2, 5", 7) == {0, 1, 2, 5}
    assert chosen_layers(None, 3) == {0, 1, 2}


def test_a_full_memory_is_one_sentence(folder, tmp_path, monkeypatch):
    def full(self, step):
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(Loop, "step", full)
    with pytest.raises(RunError, match="memory of cpu is full; resume with --gradient-checkpointing"):
        train(recipe(folder, tmp_path))


def test_a_resumed_tensorboard_has_every_step(folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with stopping_at(3):
        train(recipe(folder, tmp_path, tensorboard=True))
    train(recipe(folder, tmp_path, tensorboard=True, resume=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_the_module_for_launchers_is_the_command(folder, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(values(folder, tmp_path / "out", steps=1)))  # JSON is YAML
    command = [sys.executable, "-m", "harness.training", "--config", str(settings), "--learning", "3"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "unknown argument '--learning'" in run.stderr
