"""Records of an older schema are shown as what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.config.identity import identity, identity_hash
from harness.leaderboard.record_format import BoardRecord
from harness.records.migrations import load
from harness.records.schema import RunRecord
from harness.results import facts_of
from tests.support.record_examples import run_record, sample, timing

CONFIG = RunConfig(receiver="r", sharers=("s",), fusers=("f",), tasks=("t",), controls=("noise", "mean"))


def old(record: Any, **changes: Any) -> dict[str, Any]:
    return json.loads(record.model_dump_json()) | {"schema_version": 1} | changes


@pytest.mark.parametrize(("control", "name"), [("noise", "noise_own"), ("mean", "mean"), ("", "")])
@pytest.mark.parametrize("made", [sample, timing])
def test_noise_of_before_is_that_of_the_own_message(made: Any, control: str, name: str) -> None:
    model = type(made())
    assert load(old(made(control=control)), model, "here").control == name
    assert load(json.loads(made(control=control).model_dump_json()), model, "here").control == control


def row(control: str) -> dict[str, Any]:
    counts = dict.fromkeys(("n", "errors", "invalid", "accuracy", "accuracy_low", "accuracy_high"), 0)
    return {"task": "t", "channel": "c2c", "control": control, **counts}


def test_a_runs_rows_settings_and_counters_follow() -> None:
    before = old(
        run_record(config=CONFIG.model_dump(mode="json"), identity_fields=identity(CONFIG)),
        identity=identity_hash(CONFIG),
        results=[row("noise"), row("mean")],
        counters={"c2c/noise": {"forwards": 1}, "c2c": {"forwards": 2}},
    )
    found = load(before, RunRecord, "here")
    assert [line.control for line in found.results] == ["noise_own", "mean"]
    assert list(found.counters) == ["c2c/noise_own", "c2c"]
    assert found.config["controls"] == found.identity_fields["controls"] == ["noise_own", "mean"]
    renamed = CONFIG.model_copy(update={"controls": ("noise_own", "mean")})
    assert found.identity == identity_hash(renamed)


def test_a_run_without_that_control_keeps_its_identity() -> None:
    assert (
        load(old(run_record(identity="as it was", identity_fields={"controls": ["mean"]})), RunRecord, "here").identity
        == "as it was"
    )


def test_strata_of_before_runs_named_them() -> None:
    groups = {"factworld": ["a", "b"], "other": ["c", "d"]}
    assert facts_of(load(old(run_record(groups=groups)), RunRecord, "here")).strata == ["factworld"]
    assert facts_of(load(old(run_record(groups={"other": ["c"]})), RunRecord, "here")).strata == []


def test_a_boards_record_follows() -> None:
    answers = {"task": "t", "channel": "c2c", "control": "noise", "kind": "generate", "marks": "1", "predicted": "A"}
    seconds = {
        "task": "t",
        "channel": "c2c",
        "control": "noise",
        "question": [],
        "round": [],
        "ttft_s": [],
        "e2e_s": [],
    }
    before = {
        "schema_version": 1,
        "run": {**old(run_record(identity_fields={"controls": ["noise"]})), "schema_version": 1},
        "groups": {"factworld": ["t", "u"]},
        "results": [row("noise")],
        "questions": {"t": {"ids": ["0"], "keys": "A"}},
        "answers": [answers],
        "timings": [{**seconds, "tokens_out": []}],
    }
    before["run"].pop("groups")
    found = load(before, BoardRecord, "here")
    parts = [*found.results, *found.answers, *found.timings]
    assert {part.control for part in parts} == {"noise_own"}
    assert found.run.identity_fields["controls"] == ["noise_own"]
    assert found.run.strata == ["factworld"]


def test_the_boards_of_this_repository_load(tmp_path: Path) -> None:
    for path in (Path(__file__).resolve().parents[2] / "leaderboards" / "records").glob("*.json"):
        found = load(json.loads(path.read_text()), BoardRecord, path.name)
        assert "noise" not in {answers.control for answers in found.answers}


@pytest.mark.parametrize("bad", [{"results": 3}, {"config": 3}, {"identity_fields": 3}, {"groups": 3}])
def test_broken_parts_are_refused_by_the_check(bad: dict[str, Any]) -> None:
    from harness.errors import UserError

    with pytest.raises(UserError, match="RunRecord is wrong"):
        load(old(run_record(), **bad), RunRecord, "here")
