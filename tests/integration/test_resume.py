"""Runs that are killed, interrupted or refused, and what they leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import cli
from harness.channels import engine
from harness.paths import PAIR
from harness.records import journal
from harness.records.schema import Sample
from tests.support.processes import dying, ended, forked, lines, record, run
from tests.support.refusals import refused

TASK = "relay_one"
ARMS = ["--channels", "receiver,sharer,c2c,routed", "--controls", "mismatched,mean"]
QUESTIONS, BATCH = 8, 4
BASE = [
    "--limit", str(QUESTIONS), "--batch_size", str(BATCH), "--latency_samples", "0", "--no-progress", "--tasks", TASK,
]  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    return ["run", *BASE, *ARMS, "--output_path", str(folder), *more]


def begin(folder: Path) -> list[str]:
    """The command that starts the run or goes on with it, one line for both."""
    return command(folder, "--resume")


def counted(log: Path) -> None:
    """Has this process note every batch that it asks."""
    ask = engine._answer

    def noting(*arguments: Any) -> engine.Outcome:
        with log.open("ab", buffering=0) as stream:
            stream.write(b".")
        return ask(*arguments)

    engine._answer = noting


def counting(work: Callable[..., int], log: Path, arguments: list[str], *more: Any) -> int:
    """Works on a command line and notes every batch."""
    counted(log)
    return work(arguments, *more)


def asked(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, float]:
    """An undisturbed run: its folder, its batches, its seconds once everything is imported."""
    root = tmp_path_factory.mktemp("undisturbed")
    warm = forked(int)
    assert cli.main(command(root / "first")) == 0
    assert ended(warm) == 0
    start = time.perf_counter()
    assert ended(forked(counting, run, root / "log", command(root / "run"))) == 0
    return root / "run", asked(root / "log"), time.perf_counter() - start


def check_equal(folder: Path, whole: Path) -> None:
    keys = Counter(tuple(json.loads(x)[k] for k in ("task", "doc_id", "channel", "control")) for x in lines(folder))
    assert set(keys.values()) == {1}, "a sample was scored twice"
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert record(folder)["results"] == record(whole)["results"]
    assert record(folder)["status"] == "success"


def test_two_runs_of_one_identity_answer_the_same_bytes(whole: tuple[Path, int, float]) -> None:
    first, second = whole[0].with_name("first"), whole[0]
    assert (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    assert record(first)["identity"] == record(second)["identity"]


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 3), pytest.param(1, 30, marks=pytest.mark.slow)], ids=["few", "thirty"]
)
def test_kills_at_random_moments_change_nothing(
    whole: tuple[Path, int, float], tmp_path: Path, seed: int, kills: int
) -> None:
    draw = random.Random(seed)
    for number in range(kills):
        folder, log = tmp_path / f"run{number}", tmp_path / f"log{number}"
        child = forked(counting, run, log, begin(folder))
        time.sleep(draw.uniform(0, whole[2]))
        child.kill()
        ended(child)
        assert ended(forked(counting, run, log, begin(folder))) == 0
        check_equal(folder, whole[0])
        assert asked(log) <= whole[1] + 1


@pytest.mark.parametrize("written", [0.0, 0.4, 1.0])
def test_a_run_killed_within_every_write_ends_the_same(
    whole: tuple[Path, int, float], tmp_path: Path, written: float
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    kills = 2
    for _ in range(kills):
        assert ended(forked(counting, dying, log, begin(folder), 2, written)) == -signal.SIGKILL
        assert record(folder)["status"] == "started"
    assert ended(forked(counting, run, log, begin(folder))) == 0
    check_equal(folder, whole[0])
    assert asked(log) <= whole[1] + kills


def interrupting(arguments: list[str], sent: signal.Signals) -> int:
    """Sends itself a signal after its first batch."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell ignores it
    append = journal.Journal.append

    def interrupted(self: Any, records: Any) -> None:
        append(self, records)
        os.kill(os.getpid(), sent)

    journal.Journal.append = interrupted
    return cli.main(arguments)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_cancelled_and_goes_on(
    whole: tuple[Path, int, float], tmp_path: Path, sent: signal.Signals
) -> None:
    folder = tmp_path / "run"
    assert ended(forked(interrupting, command(folder), sent)) == 130
    assert record(folder)["status"] == "cancelled"
    assert 0 < len(lines(folder)) < len(lines(whole[0]))
    assert ended(forked(run, ["resume", str(folder)])) == 0
    check_equal(folder, whole[0])


def stopped(whole: tuple[Path, int, float], tmp_path: Path) -> Path:
    """A copy of the run with its last batches missing."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    path = folder / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:QUESTIONS]))
    return folder


def pausing(arguments: list[str], reached: Path) -> int:
    """Stands still after its first batch."""
    append = journal.Journal.append

    def slow(self: Any, records: Any) -> None:
        append(self, records)
        reached.touch()
        time.sleep(60)

    journal.Journal.append = slow
    return cli.main(arguments)


def test_a_second_process_on_the_folder_is_refused(
    whole: tuple[Path, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(whole, tmp_path)
    reached = tmp_path / "reached"
    child = forked(pausing, ["resume", str(folder)], reached)
    try:
        while not reached.exists() and child.is_alive():
            time.sleep(0.02)
        before = lines(folder)
        assert "in use by another process" in refused(capsys, ["resume", str(folder)])
        assert lines(folder) == before
    finally:
        child.kill()
        ended(child)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--seed", "1"], "documents, prompts, seed"),
        (["--limit", "4"], "documents, limit, prompts"),
        (["--gen_kwargs", "max_gen_toks=3"], "gen_kwargs, prompts"),
        (["--controls", "mean"], "controls, donors"),
        (["--dtype", "bfloat16"], "dtype, dtypes"),
    ],
)
def test_another_run_is_not_continued(
    whole: tuple[Path, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    folder = stopped(whole, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert f"differing: {named}." in refused(capsys, command(folder, "--resume", *more))
    assert before.keys() <= {path.name for path in folder.iterdir()}
    assert all((folder / name).read_bytes() == content for name, content in before.items() if name != ".lock")


def test_another_batch_size_is_the_same_run(whole: tuple[Path, int, float], tmp_path: Path) -> None:
    folder = stopped(whole, tmp_path)
    assert cli.main(command(folder, "--resume", "--batch_size", "3")) == 0
    predicted = [[(s["doc_id"], s["predicted"]) for s in map(json.loads, lines(run))] for run in (folder, whole[0])]
    assert predicted[0] == predicted[1]
    assert record(folder)["resumed"] == QUESTIONS


def test_an_edited_prompt_without_a_new_version_is_refused(
    whole: tuple[Path, int, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.relay_build import rows

    folder = stopped(whole, tmp_path)
    text = rows.doc_to_text
    monkeypatch.setattr(rows, "doc_to_text", lambda document: text(document) + " ")
    assert "differing: prompts." in refused(capsys, ["resume", str(folder)])


def broken_pair(folder: Path) -> list[str]:
    """Flags of a pair whose receiver computes NaN."""
    shutil.copytree(PAIR / "receiver", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.0" in name and "norm" in name)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ["--receiver", str(folder), "--channels", "receiver", "--controls", ""]


def test_nan_weights_stop_the_run_and_are_never_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, pair = tmp_path / "run", broken_pair(tmp_path / "receiver")
    said = refused(capsys, ["run", *BASE, *pair, "--output_path", str(folder)], code=1)
    assert "--max_error_rate 0.01" in said
    assert record(folder)["status"] == "error"
    samples = [Sample.model_validate_json(line) for line in lines(folder)]
    assert len(samples) == BATCH
    assert all(s.error is not None and s.correct is None for s in samples)
    assert "--max_error_rate 0.01" in refused(capsys, ["resume", str(folder)], code=1)


def test_errors_that_are_allowed_stay_in_the_denominator(tmp_path: Path) -> None:
    folder, pair = tmp_path / "run", broken_pair(tmp_path / "receiver")
    assert cli.main(["run", *BASE, *pair, "--output_path", str(folder), "--max_error_rate", "1"]) == 0
    for _ in range(2):
        (row,) = [row for row in record(folder)["results"] if row["model_pass"]]
        assert (row["n"], row["errors"], row["accuracy"]) == (QUESTIONS, QUESTIONS, 0.0)
        assert cli.main(["resume", str(folder)]) == 0
