from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.paths import TASKS
from tests.support.processes import command
from tests.support.refusals import refused

TINY = ["run", "--limit", "2", "--latency_samples", "0", "--no-progress", "--tasks", "relay_one"]
ONE = [*TINY, "--channels", "receiver", "--controls", ""]

NUMBERS = ["limit", "max_new_tokens", "calibration_samples", "batch_size", "max_batch_tokens"]
BAD_NUMBERS = ["0", "-1", "ten", "1.5", ""]
OTHERS = [
    (["--seed", "-1"], "seed is -1"),
    (["--seed", "x"], "whole number"),
    (["--latency_samples", "-1"], "latency_samples is -1"),
    (["--latency_warm_up", "-2"], "latency_warm_up is -2"),
    (["--latency_equal_tokens", "1"], "at least 2"),
    (["--max_error_rate", "1.1"], "at most 1"),
    (["--max_error_rate", "nan"], "max_error_rate"),
    (["--max_error_rate", "half"], "not a number"),
    (["--channels", "receiver,sharer,routed:share=-0.1"], "share=-0.1 is not allowed"),
    (["--channels", "receiver,sharer,routed:share=inf"], "share=inf is not allowed"),
    (["--channels", "receiver,ensemble:rule=median"], "rule=median is not allowed"),
    (["--channels", "receiver,ensemble:rul=mean"], "Did you mean 'rule'?"),
    (["--channels", "receiver,ensemble:rule=mean:rule=mean"], "gives 'rule' twice"),
    (["--channels", "ensemble,ensemble:rule=mean"], "twice"),
    (["--channels", "receiver:fast"], "it has none"),
    (["--routed-fraction", "0.5"], "write routed:share=X in --channels"),
    (["--dtype", "float"], "one of 'auto', 'float32'"),
    (["--dtype", "bf16"], "dtype"),
    (["--dtype", "int8"], "dtype"),
    (["--device", "tpu"], "auto, cpu, cuda"),
    (["--device", "cuda:x"], "device"),
    (["--device", ""], "device"),
    (["--attention", "flash"], "attention"),
    (["--channels", "c2c:mode=both"], "mode=both is not allowed"),
    (["--channels", "c2c:alignment=shortest"], "alignment=shortest is not allowed"),
    (["--channels", "c2c:mode=parallel"], "Channel c2c:mode=parallel: mode=parallel says how several sharers"),
    (["--channels", "t2t:max_new_tokens=0"], "max_new_tokens=0 is not allowed"),
    (["--channels", "t2t:with_options=perhaps"], "with_options=perhaps is not allowed"),
    (["--channels", "t2t:with_option"], "Did you mean 'with_options'?"),
    (["--channels", "t2t,t2t:max_new_tokens=256"], "twice"),
    (["--with_options"], "write t2t:with_options in --channels"),
    (["--may-answer"], "write t2t:may_answer in --channels"),
    (["--t2t_tokens", "8"], "write t2t:max_new_tokens=N in --channels"),
    (["--fusion_mode=parallel"], "write c2c:mode=parallel in --channels"),
    (["--alignment", "off"], "write c2c:alignment=X in --channels"),
    (["--channels", ""], "channels is empty"),
    (["--channels", "recever"], "Did you mean 'receiver'?"),
    (["--channels", "c2cc"], "Did you mean 'c2c'?"),
    (["--channels", "receiver,receiver"], "twice"),
    (["--channels", "routed", "--controls", ""], "add both"),
    (["--channels", "receiver,routed", "--controls", ""], "add both"),
    (["--channels", "receiver", "--controls", "mean"], "no channel carries any"),
    (["--controls", "means"], "Did you mean 'mean'?"),
    (["--controls", "mean,mean"], "twice"),
    (["--controls", "shufled_tokens"], "Did you mean 'shuffled_tokens'?"),
    (["--channels", "c2c", "--controls", "self"], "--self_fuser"),
    (["--tasks", ""], "No task"),
    (["--tasks", "factwrld"], "Did you mean 'factworld'?"),
    (["--tasks", "openbookq"], "Did you mean 'openbookqa'?"),
    (["--tasks", "relay,relay"], "twice"),
    (["--tasks", "../relay"], "not by a path"),
    (["--gen_kwargs", "max_gen_toks"], "name=value"),
    (["--gen_kwargs", "temperature=hot"], "has to be a number"),
    (["--gen_kwargs", "do_sample=true"], "greedy"),
    (["--gen_kwargs", "max_gen_toks=few"], "has to be a number"),
    (["--gen_kwargs", "max_gen_toks=2.5"], "whole number"),
    (["--gen_kwargs", "max_gen_toks=0"], "whole number"),
    (["--gen_kwargs", "max_gen_toks=-3"], "whole number"),
    (["--gen_kwargs", "colour=red"], "Unknown generation setting"),
    (["--gen_kwargs", "until={a: 1}"], "gen_kwargs"),
    (["--gen_kwargs", "until=["], "cannot be read"),
    (["--gen_kwargs", "until=5"], "until"),
    (["--gen_kwargs", "until=[1]"], "gen_kwargs"),
    (["--gen_kwargs", "max_gen_toks=5", "--max_new_tokens", "4"], "give one of them"),
    (["--resume"], "--output_path"),
    (["--limt", "3"], "Did you mean '--limit'?"),
    (["--batchsize", "3"], "Did you mean '--batch"),
    (["--chanels", "c2c"], "Did you mean '--channels'?"),
    (["--limit"], "expected one argument"),
    (["one.yaml", "two.yaml"], "unknown argument 'two.yaml'"),
    (["--receiver_chat_template", "none.jinja"], "no such file"),
    (["--sharer", "somewhere"], "no receiver"),
    (["--receiver", "somewhere", "--channels", "receiver,t2t"], "need a sharer"),
]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_count_is_a_whole_number_from_one(
    name: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert name in refused(capsys, [*ONE, f"--{name}", value])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "words"), OTHERS, ids=[" ".join(more) for more, _ in OTHERS])
def test_a_flag_is_refused_in_a_sentence(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, [*TINY, *more])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], "Did you mean 'run'?"),
        (["run", "--tasks", "relay_one", "relay_crowd"], "with commas, --tasks relay_one,relay_crowd."),
        (["run", "--tasks=a", "b", "c"], "with commas, --tasks a,b,c."),
        (["run", "--sharer", "a", "b"], "with commas, --sharer a,b."),
        (["--limit", "3"], "Unknown command '--limit'"),
        (["ls", "task"], "Unknown list 'task'. Did you mean 'tasks'?"),
        (["report", "a_run", "--margin", "0"], "more than 0 and less than 100"),
        (["resume"], "required: run"),
        (["check", "only-one"], "required: run"),
        (["check", "a", "b", "--margin", "wide"], "invalid float"),
        (["report", "--html", "page.html"], "at least one run"),
        (["report", "--plot", "x"], "Did you mean '--plots'?"),
        (["convert", "nowhere"], "required: target"),
        (["convert", "nowhere", "new"], "not a folder"),
        (["train-demo", "--seed", "x"], "invalid int"),
        (["train-demo"], "required: --output"),
        (["train-demo", "--output", "."], "exists already"),
        (["train-demo", "--output", f"{__file__}/pair"], "Not a directory"),
    ],
)
def test_every_command_refuses_in_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, arguments)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "file/run" in refused(capsys, [*ONE, "--output_path", str(tmp_path / "file" / "run")])
    assert "is a file" in refused(capsys, [*ONE, "--leaderboards_dir", str(tmp_path / "file")])


def shell(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(TASKS.parent / "run_eval.py"), *arguments]
    return subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (shell, ["rum"]),
        (command, ["run", "--tasks", "factwrld"]),  # from a process that has the libraries already
        (command, ["resume", "nowhere"]),
    ],
)
def test_a_shell_sees_one_line_and_exit_code_2(
    call: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], tmp_path: Path
) -> None:
    ended = call(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1


def test_of_many_tasks_the_near_one_comes_first_and_few_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, [*TINY, "--tasks", "factwrld"])
    assert said.index("Did you mean 'factworld'?") < said.index("Allowed: ")
    assert said.partition("Allowed: ")[2].count(",") <= 5
    assert "see `c2c-harness ls`" in said


def test_a_name_that_shares_a_few_letters_is_not_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean" not in refused(capsys, [*TINY, "--channels", "mychan"])
