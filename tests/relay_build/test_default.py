"""What `run` asks when nobody says what, and of whom."""

import argparse

import pytest

from harness import cli
from harness.cli.run_flags import configuration
from harness.errors import UserError


def config(*given):
    return configuration(argparse.ArgumentParser(), given)


def test_left_alone_run_asks_both_forms_through_every_usual_channel():
    left_alone = config()
    assert left_alone.tasks == ("relay_one", "relay_crowd")
    assert left_alone.receiver == "tasks/relay/pair/receiver"
    assert left_alone.sharers == ("tasks/relay/pair/sharer",)
    assert left_alone.fusers == ("tasks/relay/pair/fuser",)
    assert left_alone.channels == ("receiver", "sharer", "ensemble", "t2t", "c2c")
    assert left_alone.controls == ("mismatched", "mean")
    assert (left_alone.limit, left_alone.latency_samples) == (None, 8)


def test_flags_win_over_the_size_of_the_default_run():
    asked = config("--limit", "5", "--latency_samples", "1")
    assert (asked.limit, asked.latency_samples) == (5, 1)


def test_another_task_alone_is_asked_of_the_embedded_pair():
    assert config("--tasks", "mmlu_redux").receiver == "tasks/relay/pair/receiver"


@pytest.mark.parametrize("tasks", ["factworld", "relay,factworld_letters"])
def test_factworld_without_models_is_refused_since_no_carried_pair_knows_its_words(tasks):
    with pytest.raises(UserError, match="build a pair with train-demo --world factworld"):
        config("--tasks", tasks)
    assert config("--tasks", tasks, "--receiver", "mine", "--channels", "receiver").receiver == "mine"


def test_a_named_receiver_is_left_alone():
    assert config("--receiver", "mine", "--tasks", "relay", "--channels", "receiver").receiver == "mine"


def test_factworld_has_no_answering_sharer(tmp_path, capsys):
    command = ["train-demo", "--world", "factworld", "--answering-sharer", "--output", str(tmp_path / "new")]
    assert cli.main(command) == 2
    assert "--answering-sharer changes the relay world's sharer" in capsys.readouterr().err
