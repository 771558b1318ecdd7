"""`harness.evaluate`: what `run` gives with the same settings, from names, folders or objects, in any thread."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness import cli
from harness.channels import controls
from harness.channels.control_registry import CONTROLS, ControlEntry
from harness.channels.interface import Group
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.channels.single import Single
from harness.models.loading import load
from harness.records.journal import read_record
from tests.api.conftest import PAIR, SETTINGS


def samples(path: Path) -> bytes:
    return (path / "samples.jsonl").read_bytes()


def objects(receiver: Any, sharer: Any, fuser: Any) -> dict[str, Any]:
    return {"receiver": receiver, "sharer": sharer, "fuser": fuser}


def test_the_answers_are_those_of_the_command_line_and_nothing_is_printed(
    commanded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = harness.evaluate(**SETTINGS)
    assert capsys.readouterr().out == ""
    assert samples(result.path) == samples(commanded)
    ours, theirs = result.run.record, read_record(commanded)
    assert (ours.identity, ours.models, ours.fusers) == (theirs.identity, theirs.models, theirs.fusers)
    assert result.table() == harness.Result.read(commanded).table()


def test_loaded_objects_answer_as_their_folders_and_stay_as_they_are(
    commanded: Path, receiver: Any, sharer: Any, fuser: Any, tmp_path: Path
) -> None:
    modules, training = [type(m) for m in receiver[0].modules()], fuser.training
    weights = {name: value.clone() for name, value in receiver[0].state_dict().items()}
    fuser.train()
    given = {"receiver": receiver, "sharer": [sharer], "fuser": fuser, "output_path": tmp_path / "run"}
    result = harness.evaluate(**given, **SETTINGS)
    assert result.path == tmp_path / "run"
    assert samples(result.path) == samples(commanded)
    assert fuser.training
    fuser.train(training)
    assert [type(m) for m in receiver[0].modules()] == modules
    assert all(torch.equal(value, weights[name]) for name, value in receiver[0].state_dict().items())


def test_a_model_of_ours_and_one_in_a_folder_go_together(commanded: Path, sharer: Any) -> None:
    lm = load(str(PAIR / "receiver"), device="cpu")
    result = harness.evaluate(lm, sharer=PAIR / "sharer", fuser=[str(PAIR / "fuser")], **SETTINGS)
    assert samples(result.path) == samples(commanded)
    receiver, sent = result.run.record.models
    assert receiver.reference.startswith("in-memory:receiver@")
    assert sent.reference == str(PAIR / "sharer")
    assert (result.run.record.config["device"], result.run.record.config["dtype"]) == ("cpu", "float32")


def test_runs_in_two_threads_over_one_loaded_model_are_what_each_is_alone(
    commanded: Path, receiver: Any, sharer: Any, fuser: Any
) -> None:
    given = objects(receiver, sharer, fuser)
    alone = harness.evaluate(receiver, channels=["receiver"], tasks=SETTINGS["tasks"], limit=3, latency_samples=0)
    found: dict[str, harness.Result] = {}

    def fused() -> None:
        found["fused"] = harness.evaluate(**given, **SETTINGS)

    def single() -> None:
        found["single"] = harness.evaluate(
            receiver, channels=["receiver"], tasks=SETTINGS["tasks"], limit=3, latency_samples=0
        )

    threads = [threading.Thread(target=work) for work in (fused, single)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert samples(found["fused"].path) == samples(commanded)
    assert samples(found["single"].path) == samples(alone.path)
    assert found["single"].run.record.identity == alone.run.record.identity


def test_a_temporary_folder_goes_with_its_result(receiver: Any) -> None:
    result = harness.evaluate(receiver, channels="receiver", tasks=SETTINGS["tasks"], limit=2, latency_samples=0)
    path = result.path
    assert path.is_dir()
    del result
    gc.collect()
    assert not path.parent.exists()


def test_a_run_of_objects_goes_on_with_the_same_objects_alone(
    receiver: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"channels": "receiver", "tasks": SETTINGS["tasks"], "limit": 2, "latency_samples": 0}
    asked["output_path"] = tmp_path / "run"
    first = harness.evaluate(receiver, **asked)
    again = harness.evaluate(receiver, **asked, resume=True)
    assert again.run.record.resumed == 2
    assert samples(again.path) == samples(first.path)
    assert cli.main(["resume", str(tmp_path / "run")]) == 2
    assert "give the object again" in capsys.readouterr().err


def test_a_channel_is_given_as_an_entry_and_given_anew_in_its_place(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kept in ("_entries", "_origins"):
        monkeypatch.setattr(CHANNELS, kept, dict(getattr(CHANNELS, kept)))
    asked: dict[str, Any] = {"tasks": SETTINGS["tasks"], "limit": 2, "latency_samples": 0}
    with pytest.raises(harness.UserError, match="Unknown channel 'once_more'"):
        harness.evaluate(receiver, channels=["receiver", "once_more"], **asked)
    for _ in range(2):  # a cell of a notebook that runs again makes another function
        entry = ChannelEntry("once_more", "x", build=lambda models, _: [Group(Single(models.receiver, "once_more"))])
        result = harness.evaluate(receiver, channels=["receiver", entry], **asked)
        assert "once_more" in set(result.frame()["channel"])
    with pytest.raises(harness.UserError, match="Two entries are named channel 'receiver'"):
        harness.evaluate(receiver, channels=[ChannelEntry("receiver", "x")], **asked)


def test_a_control_is_given_as_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in ("_entries", "_origins"):
        monkeypatch.setattr(CONTROLS, kept, dict(getattr(CONTROLS, kept)))
    asked: dict[str, Any] = {"channels": ["receiver", "c2c"], "limit": 2, "latency_samples": 0, "progress": False}
    entry = ControlEntry("emptied", "x", tensors=controls.zeros)
    result = harness.evaluate(tasks=SETTINGS["tasks"], controls=[entry, "closed"], **asked)
    assert {"c2c/emptied", "c2c/closed"} <= set(result.frame()["arm"])
