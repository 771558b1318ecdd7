"""Words of other tools get what they are called here, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.cli.foreign_words import answer
from tests.support.refusals import refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--model", "hf"], "--receiver MODEL"),
        (["run", "--model_args", "pretrained=org/m,revision=abc,dtype=float"], "write --receiver org/m@abc"),
        (["run", "--model-args=pretrained=org/m"], "write --receiver org/m"),
        (["run", "--model_args", "dtype=float"], "settings as flags of their own"),
        (["run", "pretrained=org/m"], "write --receiver org/m"),
        (["run", "--num_fewshot", "5"], "num_fewshot in its YAML"),
        (["run", "--apply_chat_template"], "--no-chat asks without it"),
        (["run", "--log_samples"], "every answer is kept"),
        (["run", "--batch_size", "auto"], "name a number"),
        (["run", "--batch-size=auto:4"], "name a number"),
        (["run", "--include_path", "x"], "--tasks path/to/task.yaml"),
        (["train", "--lr", "1"], "--learning_rate X"),
        (["train", "--output-dir", "x"], "--output_path DIR"),
    ],
)
def test_each_is_answered(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, words)


def test_values_of_our_own_flags_are_left_alone() -> None:
    words = ["--receiver_args", "pretrained=x", "--batch_size", "8", "--tasks", "model"]
    assert answer("run", words, ["--receiver_args", "--batch_size", "--tasks"]) == ""
    assert answer("report", ["--model"], []) == ""


def test_a_receiver_alone_is_a_run_of_one_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli.parser import Parser
    from harness.cli.run_flags import configuration

    config = configuration(Parser("run"), ["--receiver", "org/m", "--tasks", "relay_one"])
    assert (config.channels, config.controls, config.sharers) == (("receiver",), (), ())
    assert cli.main(["run", "--receiver", "org/m"]) == 2
    assert "--tasks" in capsys.readouterr().err
