from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunError, UserError
from harness.records import LoadedRun, journal, load_run
from harness.records.folder import RankFolder, RunFolder
from harness.records.journal import latest_samples
from harness.records.schema import SCHEMA_VERSION
from tests.support.record_examples import child, run_record, sample, timing


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with RunFolder.create(path, run_record()) as run:
        assert load_run(path).record.status == "started"
        run.add_samples([sample(0)])
        run.add_timings([timing(0)])
        run.update(run.record.model_copy(update={"resumed": 3}))
        done = run.finish("success")
    assert done.finished_at is not None
    assert load_run(path) == LoadedRun(path, done, [sample(0)], [timing(0)], [])
    assert (done.status, done.resumed) == ("success", 3)


@pytest.mark.parametrize(("error", "status"), [(ValueError("boom"), "error"), (KeyboardInterrupt(), "cancelled")])
def test_leaving_by_an_exception_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), RunFolder.create(tmp_path, run_record()):
        raise error
    record = load_run(tmp_path).record
    assert record.status == status
    assert record.error is not None
    assert record.error.type == type(error).__name__


def test_first_error_is_told_where_the_disk_cannot_take_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = RunFolder.create(tmp_path, run_record())
    monkeypatch.setattr("harness.records.files.write_fully", full)
    monkeypatch.setattr("harness.records.journal.write_fully", full)
    with pytest.raises(RunError, match=r"samples\.jsonl"), run:
        run.add_samples([sample(0)])
    monkeypatch.undo()
    assert load_run(tmp_path).record.status == "started"
    RunFolder.open(tmp_path).close()


def test_leaving_without_finish_stays_started(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, run_record()):
        pass
    assert load_run(tmp_path).record.status == "started"


def test_resumed_run_hands_out_what_is_done(tmp_path: Path) -> None:
    failed = sample(1, correct=None, error={"type": "E", "message": "m"})
    with RunFolder.create(tmp_path, run_record()) as run:
        run.add_samples([sample(0), failed])
    with (tmp_path / "samples.jsonl").open("ab") as stream:
        stream.write(b'{"task": "open')
    with RunFolder.open(tmp_path) as again:
        assert again.samples == [sample(0), failed]
        assert "line 3 was cut short" in again.warnings[0]
        again.add_samples([sample(1)])
    loaded = load_run(tmp_path)
    assert loaded.samples == [sample(0), sample(1)]
    assert loaded.warnings == []


def test_last_done_sample_wins() -> None:
    failed = sample(0, correct=None, error={"type": "E", "message": "m"})
    right, wrong = sample(0), sample(0, correct=False, predicted="B")
    other_control, other_task = sample(0, control="mean"), sample(0, task="arc")
    assert latest_samples([right, wrong, failed]) == [wrong]
    assert latest_samples([failed, failed.model_copy(update={"position": 7})])[0].position == 7
    assert latest_samples([right, other_control, other_task]) == [right, other_control, other_task]


@pytest.mark.parametrize(
    "broken",
    [
        {"loglikelihoods": [-1.0, math.nan]},
        {"loglikelihoods": [-1.0, -math.inf]},
        {"entropy": math.nan},
        {"metrics": {"acc": math.nan}},
    ],
)
def test_numbers_that_are_not_finite_are_errors_and_never_scores(tmp_path: Path, broken: dict[str, Any]) -> None:
    with RunFolder.create(tmp_path, run_record()) as run:
        run.add_samples([sample(0, **broken)])
    (found,) = load_run(tmp_path).samples
    assert found.error is not None
    assert found.error.type == "NotFinite"
    assert found.correct is None
    assert found.predicted is None
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample(0, **broken).model_dump()) + "\n")
    assert load_run(tmp_path).samples[0].error is not None


def shared(path: Path) -> tuple[RunFolder, RankFolder, RankFolder]:
    """A run of three processes, each with a sample of its own."""
    first = RunFolder.create(path, run_record())
    first.admit()
    ranks = [RankFolder(path, rank, first.record.run_id) for rank in (1, 10)]
    for number, folder in enumerate([first, *ranks]):
        folder.add_samples([sample(number)])
    return first, ranks[0], ranks[1]


def test_samples_of_all_processes_are_read_while_the_run_goes_on(tmp_path: Path) -> None:
    first, *others = shared(tmp_path)
    assert load_run(tmp_path).samples == [sample(0), sample(1), sample(2)]
    with first, others[0], others[1]:
        pass
    with RunFolder.open(tmp_path) as again:
        assert again.samples == [sample(0), sample(1), sample(2)]


def test_a_settled_folder_holds_each_sample_once_in_order(tmp_path: Path) -> None:
    first, *others = shared(tmp_path)
    with first, others[0], others[1]:
        first.settle([sample(2), sample(0), sample(1)])
    assert load_run(tmp_path).samples == [sample(2), sample(0), sample(1)]
    assert [path.name for path in tmp_path.glob("samples*")] == ["samples.jsonl"]


@pytest.mark.parametrize("step", ["os.replace", "Path.unlink"])
def test_dying_while_the_folder_is_settled_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    first, *others = shared(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies) if step == "os.replace" else patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            first.settle([sample(2), sample(0), sample(1)])
    for folder in (first, *others):
        folder.__exit__(None, None, None)
    assert sorted(s.doc_id for s in load_run(tmp_path).samples) == sorted(s.doc_id for s in map(sample, range(3)))
    with RunFolder.open(tmp_path) as again:
        assert len(again.samples) == 3
        again.settle(again.samples)
    assert len(load_run(tmp_path).samples) == 3
    assert [path.name for path in tmp_path.glob("samples*")] == ["samples.jsonl"]


def test_a_journal_that_is_merged_while_it_is_read_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = shared(tmp_path)
    listed = journal.rank_journals(tmp_path)
    first.settle([sample(0), sample(1), sample(2)])
    monkeypatch.setattr(journal, "rank_journals", lambda _: listed)
    assert load_run(tmp_path).samples == [sample(0), sample(1), sample(2)]
    for folder in (first, *others):
        folder.__exit__(None, None, None)


def test_a_newcomer_is_refused_while_any_process_of_the_run_lives(tmp_path: Path) -> None:
    first, *others = shared(tmp_path)
    for folder in (first, *others):
        with pytest.raises(UserError, match="in use by another process"):
            RunFolder.open(tmp_path)
        folder.__exit__(None, None, None)
    RunFolder.open(tmp_path).close()


def test_a_process_that_does_not_see_the_runs_folder_is_told_so(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", run_record()) as first:
        first.admit()
        for path, run_id in ((tmp_path / "elsewhere", first.record.run_id), (first.path, "another")):
            with pytest.raises(UserError, match="all nodes share"):
                RankFolder(path, 1, run_id)
    assert not (tmp_path / "elsewhere").exists()


def test_answers_of_a_further_process_alone_are_a_run_as_well(tmp_path: Path) -> None:
    first, *others = shared(tmp_path)
    for folder in (first, *others):
        folder.__exit__(None, None, None)
    os.unlink(tmp_path / "run.json")
    os.unlink(tmp_path / "samples.jsonl")
    with pytest.raises(UserError, match="has answers, but no run"):
        RunFolder.create(tmp_path, run_record())


def test_second_create_is_refused_and_keeps_the_first(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, run_record()) as run:
        run.add_samples([sample(0)])
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(tmp_path, run_record(run_id="other"))
    os.unlink(tmp_path / "run.json")
    with pytest.raises(UserError, match="has answers, but no run"):
        RunFolder.create(tmp_path, run_record(run_id="other"))
    (tmp_path / "samples.jsonl").write_bytes(b"")
    RunFolder.create(tmp_path, run_record(run_id="other")).close()


HOLD = """
import sys
from pathlib import Path
from harness.records.folder import RunFolder
with RunFolder.open(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, run_record()).close()
    other = child(HOLD, tmp_path, stdin=-1)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    for opening in (RunFolder.open, lambda path: RunFolder.create(path, run_record())):
        with pytest.raises(UserError, match=f"in use by another process .{other.pid}."):
            opening(tmp_path)
    assert load_run(tmp_path).samples == []
    other.kill()
    other.communicate(timeout=60)
    RunFolder.open(tmp_path).close()


def test_open_and_load_refuse_what_is_no_run_folder_and_leave_it_alone(tmp_path: Path) -> None:
    for reader in (RunFolder.open, load_run):
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(UserError, match="no run folder"):
                reader(folder)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a path"):
        RunFolder.create(tmp_path / "file", run_record())
    with pytest.raises(UserError, match="choose a path"):
        RunFolder.create(tmp_path / "file" / "below", run_record())

    def read_only(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("harness.records.folder.os.open", read_only)
    with pytest.raises(UserError, match="Read-only file system"):
        RunFolder.create(tmp_path / "new", run_record())


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        RunFolder.create(tmp_path, run_record())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ('{"run_id": ', "not valid JSON"),
        ("[]", "one JSON object"),
        ("{}", "field 'run_id'"),
        (run_record().model_dump_json().replace(f'version":{SCHEMA_VERSION}', 'version":99'), "update the harness"),
    ],
)
def test_broken_run_json_is_a_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_run(tmp_path)


def test_missing_journal_is_a_sentence(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, run_record()).close()
    (tmp_path / "samples.jsonl").unlink()
    with pytest.raises(UserError, match=r"samples\.jsonl"):
        load_run(tmp_path)


def test_a_record_that_would_not_load_is_never_written(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, run_record()) as run:
        with pytest.raises(ValueError, match="status"):
            run.update(run.record.model_copy(update={"status": "done"}))
        assert load_run(tmp_path).record == run.record


def test_no_access_token_reaches_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, hub = "s3cr3t-value-0123456789", "hf_" + "aB3" * 11
    monkeypatch.setenv("HF_TOKEN", secret)
    leaking = run_record(command=["run", secret], environment={"X": hub})
    with RunFolder.create(tmp_path, leaking) as run:
        run.add_samples([sample(0, text=f"a {secret} b", error={"type": "E", "message": hub, "trace": secret})])
        run.finish("error")
    for file in tmp_path.iterdir():
        assert secret not in file.read_text()
        assert hub not in file.read_text()
    assert load_run(tmp_path).record.command == ["run", "[removed]"]
