"""Help fits a screen and shows every flag once; both spellings are read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from pydantic import BaseModel

from harness import cli
from harness.bench.main import BenchOptions
from harness.cli.parser import Parser
from harness.config import RunConfig
from harness.config.flags import add_flags, flags_of, given_values
from harness.errors import ended
from harness.paths import ROOT
from harness.training.recipe import Recipe


def told(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", ["run", "train"])
def test_help_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, command, "--help")
    assert len(said) <= 40
    assert max(map(len, said)) <= 80
    assert said[-1].endswith(f"c2c-harness {command} --help all")


@pytest.mark.parametrize(
    ("called", "shown"),
    [("run_eval.py", "python run_eval.py"), ("my code/run_eval.py", "python 'my code/run_eval.py'")]
    + [(f"/somewhere/{name}", "c2c-harness") for name in ("bin/c2c-harness", "training/__main__.py", "pytest")],
)
def test_a_command_is_shown_as_it_was_called(
    called: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert cli.main([]) == 0
    overview = capsys.readouterr().out
    assert overview.startswith(f"usage: {shown} COMMAND")
    assert overview.rstrip().endswith(f"{shown} COMMAND --help shows a command's flags.")
    assert " ".join(told(capsys, "check", "-h")).startswith(f"usage: {shown} check")
    assert cli.main(["run", "--write_out"]) == 2
    assert f"{shown} report RUN --question ID" in capsys.readouterr().err


@pytest.mark.parametrize("model", [RunConfig, Recipe, BenchOptions])
def test_a_switch_that_is_on_says_what_turning_it_off_does(model: type[BaseModel]) -> None:
    for flag in flags_of(model):
        if flag.on:
            assert flag.help != model.model_fields[flag.field].description, flag.shown


def test_all_of_it_shows_every_flag_in_one_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "run", "-h", "all")
    assert max(map(len, said)) <= 80
    shown = [found[1] for line in said if (found := re.match(r" {2}(--[\w-]+)", line))]
    assert shown == ["--plugin", "--dry_run", *(flag.shown for flag in flags_of(RunConfig))]
    assert {"--sharer", "--no-progress", "--trust_remote_code"} <= set(shown)


def test_hyphens_and_underscores_are_one() -> None:
    parser = Parser("run")
    add_flags(parser, RunConfig)

    def read(*words: str) -> dict[str, object]:
        return given_values(RunConfig, vars(parser.parse_args(words)))

    assert read("--no_trust-remote_code", "--batch-size=3") == {"trust_remote_code": False, "batch_size": 3}
    assert read("--output-path", "a-b_c") == {"output_path": "a-b_c"}


def test_another_word_behind_help_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--help", "al"]) == 2
    assert "--help all" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in ``run_eval.py ls | head -1``."""
    unread, written = os.pipe()
    os.close(unread)
    words = [sys.executable, "-u", str(ROOT / "run_eval.py"), "ls"]
    done = subprocess.run(words, stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_another_broken_pipe_is_not_taken_for_that() -> None:
    def lost() -> int:
        raise BrokenPipeError("a server went away")

    with pytest.raises(BrokenPipeError):
        ended(lost)
