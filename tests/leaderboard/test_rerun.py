"""The command that a board prints asks for the same run again."""

from __future__ import annotations

import argparse
import shlex

import pytest

from harness.cli.run_flags import configuration
from harness.config import RunConfig, identity
from harness.leaderboard.rerun import rerun_command
from harness.records.schema import RunRecord


@pytest.mark.parametrize(
    "asked",
    [
        [
            "--receiver",
            "org/one@main",
            "--sharer",
            "org/two",
            "--fuser",
            "my fuser",
            "--channels",
            "receiver,t2t,c2c",
            "--tasks",
            "openbookqa",
        ],
        [
            "--receiver",
            "r",
            "--sharer",
            "a",
            "--sharer",
            "b",
            "--fuser",
            "x",
            "--fuser",
            "y",
            "--tasks",
            "openbookqa,arc_challenge",
        ],
        ["--controls", "mean,zeroed", "--limit", "7", "--seed", "3", "--no-chat-template", "--dtype", "bfloat16"],
        ["--gen_kwargs", "max_gen_toks=8", "--enable_thinking", "--channels", "receiver"],
        ["--channels", "receiver,sharer,ensemble:rule=product,routed:by=random"],
        [],
    ],
)
def test_the_command_on_a_board_asks_for_the_same_again(asked: list[str]) -> None:
    config = configuration(argparse.ArgumentParser(), asked)
    printed = shlex.split(rerun_command(record_of(config)))
    assert printed[:3] == ["python", "run_eval.py", "run"]
    assert identity(configuration(argparse.ArgumentParser(), printed[3:])) == identity(config)


def test_the_command_reads_the_rows_that_the_run_read() -> None:
    config = configuration(argparse.ArgumentParser(), ["--tasks", "openbookqa", "--datasets_dir", "my rows"])
    record = record_of(config).model_copy(update={"config": {"datasets_dir": config.datasets_dir}})
    assert configuration(argparse.ArgumentParser(), shlex.split(rerun_command(record))[3:]).datasets_dir == "my rows"


def record_of(config: RunConfig) -> RunRecord:
    return RunRecord(
        run_id="r", status="success", started_at="", identity="", identity_fields=identity(config), config={}
    )
