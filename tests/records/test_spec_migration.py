"""What was said of T2T and C2C for a whole run is in the channel's name now; older runs read, resume and compare so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import build, differing
from harness.config.identity import identity, identity_hash
from harness.leaderboard.record_format import read_record
from harness.leaderboard.rerun import rerun_command
from harness.paths import ROOT
from harness.records.folder import RunFolder
from harness.records.journal import load_run
from harness.records.migrations import load
from harness.records.schema import RunRecord, Sample
from harness.results import compare, frame
from tests.support.record_examples import run_record, sample, timing

CONFIG = build({"receiver": "r", "sharers": ["s", "u"], "fusers": ["f", "g"], "tasks": ["t"], "channels": "t2t,c2c"})
BEFORE = {
    "fusion_mode": "sequential",
    "alignment": "auto",
    "with_options": False,
    "may_answer": False,
    "t2t_tokens": 256,
}
TEXT, FUSED = "t2t:max_new_tokens=64:with_options", "c2c:alignment=first:mode=parallel"
CHANGED = {"t2t_tokens": 64, "with_options": True, "alignment": "first", "fusion_mode": "parallel"}


def row(channel: str, control: str = "") -> dict[str, Any]:
    counts = dict.fromkeys(("n", "errors", "invalid", "accuracy", "accuracy_low", "accuracy_high"), 0)
    return {"task": "t", "channel": channel, "control": control, **counts}


def before(**changes: Any) -> dict[str, Any]:
    """A run's record as the second version of the schema has it."""
    settings = CONFIG.model_dump(mode="json") | BEFORE | changes
    fields = identity(CONFIG) | BEFORE | changes
    counters = {"t2t": {"forwards": 1}, "c2c/mean": {"forwards": 2}}
    record = run_record(config=settings, identity_fields=fields, identity="old", counters=counters)
    rows = [row("t2t"), row("t2t", "mismatched"), row("c2c", "mean")]
    return json.loads(record.model_dump_json()) | {"schema_version": 2, "results": rows}


def test_options_of_a_whole_run_become_those_of_its_channels() -> None:
    found = load(before(**CHANGED), RunRecord, "here")
    assert found.config["channels"] == found.identity_fields["channels"] == [TEXT, FUSED]
    assert not BEFORE.keys() & {*found.config, *found.identity_fields}
    assert [(r.channel, r.control) for r in found.results] == [(TEXT, ""), (TEXT, "mismatched"), (FUSED, "mean")]
    assert list(found.counters) == [TEXT, f"{FUSED}/mean"]
    again = build({**CONFIG.model_dump(), "channels": [TEXT, FUSED]})
    assert differing(found.identity_fields, identity(again)) == []
    assert found.identity == identity_hash(again)
    assert build(found.config).channels == (TEXT, FUSED)


def test_usual_options_leave_the_plain_names() -> None:
    found = load(before(), RunRecord, "here")
    assert (found.config["channels"], found.identity) == (["t2t", "c2c"], identity_hash(CONFIG))
    assert [r.channel for r in found.results] == ["t2t", "t2t", "c2c"]


def test_a_way_to_combine_a_single_sharer_was_without_effect() -> None:
    found = load(before(fusion_mode="parallel", sharers=["s"]), RunRecord, "here")
    assert found.config["channels"] == ["t2t", "c2c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of the second version of the schema with two answers and a timing."""
    samples = [sample(i, channel=channel) for channel in ("t2t", "c2c") for i in (0, 1)]
    for name, records in (("samples", samples), ("timings", [timing(0, channel="t2t")])):
        lines = [json.dumps(json.loads(r.model_dump_json()) | {"schema_version": 2}) for r in records]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    started = before(**CHANGED) | {"status": "started", "results": []}
    (tmp_path / "run.json").write_text(json.dumps(started))
    return tmp_path


def test_lines_of_a_journal_are_read_under_the_names_of_their_run(folder: Path) -> None:
    found = load_run(folder)
    assert [s.channel for s in found.samples] == [TEXT, TEXT, FUSED, FUSED]
    assert [t.channel for t in found.timings] == [TEXT]
    assert {*frame([found])["channel"]} >= {TEXT, FUSED}
    assert len(compare(found.samples, (TEXT, ""), (FUSED, ""))) == 1


def test_a_run_that_goes_on_keeps_its_older_lines_beside_the_new_ones(folder: Path) -> None:
    with RunFolder.open(folder) as opened:
        opened.update(opened.record)  # in today's schema
        opened.add_samples([sample(2, channel=TEXT)])
    assert json.loads((folder / "run.json").read_text())["config"]["channels"] == [TEXT, FUSED]
    assert [s.channel for s in load_run(folder).samples] == [TEXT, TEXT, FUSED, FUSED, TEXT]


def test_a_line_that_is_no_part_of_a_run_keeps_its_name() -> None:
    line = json.loads(sample(0, channel="t2t").model_dump_json()) | {"schema_version": 2}
    assert load(line, Sample, "here").channel == "t2t"
    assert load(line, Sample, "here", ["t2t", TEXT]).channel == "t2t"
    assert load(line, Sample, "here", [TEXT, "t2t:may_answer"]).channel == "t2t"
    now = json.loads(sample(0, channel="t2t").model_dump_json())
    assert load(now, Sample, "here", [TEXT]).channel == "t2t"


def test_the_boards_of_this_repository_keep_their_rows() -> None:
    for path in sorted((ROOT / "leaderboards" / "records").glob("*.json")):
        raw, found = json.loads(path.read_text()), read_record(path)
        assert found.consistent
        assert len(found.record.results) == len(raw["results"])
        for old, new in zip(raw["results"], found.record.results, strict=True):
            assert (old["task"], bool(old.get("control"))) == (new.task, bool(new.control))
            assert old["channel"].partition(":")[0] == new.channel.partition(":")[0]
            assert old["accuracy"] == new.accuracy
        assert "t2t_tokens" not in rerun_command(found.record.run)
