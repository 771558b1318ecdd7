"""Several variants of one channel in one run: each an arm with its payload, its controls and its differences."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from harness import cli
from harness.records.journal import load_run
from harness.results import compare, facts_of

CHANNELS = (
    *("receiver", "t2t", "t2t:max_new_tokens=16:with_options"),
    *("c2c", "c2c:payload=int8", "c2c:payload=int4"),
)
ASKED = "receiver,t2t,t2t:with_options:max_new_tokens=16,c2c,c2c:payload=int8,c2c:payload=int4"
CONTROLS = ("mismatched", "mean", "zeroed")
QUESTIONS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants") / "run"
    asked = ["--channels", ASKED, "--controls", ",".join(CONTROLS), "--tasks", "relay", "--limit", str(QUESTIONS)]
    fixed = ["--latency_samples", "0", "--device", "cpu", "--no-progress", "--calibration_samples", "2"]
    assert cli.main(["run", *asked, *fixed, "--output_path", str(folder)]) == 0
    return folder


def test_six_arms_with_payloads_and_controls(folder: Path) -> None:
    run = load_run(folder)
    assert tuple(run.record.config["channels"]) == CHANNELS
    tasks = {sample.task for sample in run.samples}
    arms: dict[str, set[str]] = {name: set() for name in CHANNELS}
    for sample in run.samples:
        assert sample.done, sample
        arms[sample.channel].add(sample.control)
    assert arms["receiver"] == {""}
    assert arms["t2t"] == arms[CHANNELS[2]] == {"", "mismatched", "zeroed"}
    assert all(arms[name] == {"", *CONTROLS} for name in CHANNELS[3:])
    sent = {name: [s.payload_bytes for s in run.samples if s.arm == (name, "")] for name in CHANNELS}
    assert all(len(sizes) == QUESTIONS * len(tasks) for sizes in sent.values())
    assert not any(sent["receiver"])
    assert all(map(any, (sent["t2t"], sent[CHANNELS[2]])))
    for native, int8, int4 in zip(*(sent[name] for name in CHANNELS[3:]), strict=True):
        assert native > int8 > int4 > 0


def test_any_two_arms_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run(folder)
    for arm, base in itertools.combinations(CHANNELS, 2):
        (found,) = compare(run.samples, (arm, ""), (base, ""), facts_of(run.record))
        assert (found.arm[0], found.base[0], found.left_out) == (arm, base, 0)
        assert found.n == QUESTIONS * len({sample.task for sample in run.samples})
    assert cli.main(["report", str(folder), "--compare", "c2c:payload=int4/mean,t2t"]) == 0
    assert "c2c:payload=int4/mean" in capsys.readouterr().out.replace("\n", "")


def test_what_a_channel_cannot_take_is_said_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--channels", "t2t,c2c", "--controls", "mean,closed", "--tasks", "relay_one", "--limit", "1"]
    fixed = ["--latency_samples", "0", "--device", "cpu", "--output_path", str(tmp_path / "run")]
    assert cli.main(["run", *asked, *fixed]) == 0
    said = capfd.readouterr().err
    assert said.count("Controls that a channel cannot take are left out there: mean, closed of t2t.") == 1
