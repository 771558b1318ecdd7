from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import RunError, UserError
from harness.records import journal as journals
from harness.records import migrations, schema
from harness.records.journal import Journal, read
from harness.records.schema import Sample
from tests.support.record_examples import child, sample

LINES = [journals.encode(sample(number)) for number in range(3)]
VERSION = f'"schema_version": {schema.SCHEMA_VERSION}'.encode()
NAME = "samples.jsonl"


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / NAME
    path.write_bytes(content)
    return path


def test_round_trip_over_sessions(tmp_path: Path) -> None:
    odd = sample(1, text='line\nbreak   \x85 é \\ "', message_text="", entropy=math.inf)
    with Journal(tmp_path / NAME, Sample) as first:
        first.append([sample(0), odd])
    with Journal(tmp_path / NAME, Sample) as second:
        assert second.found == [sample(0), odd]
        second.append([])
        second.append([sample(2)])
    assert read(tmp_path / NAME, Sample).records == [sample(0), odd, sample(2)]


def test_nan_stays_nan_and_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    with Journal(tmp_path / NAME, Sample) as journal:
        journal.append([sample(entropy=math.nan, text="\ud800x")])
    (found,) = read(tmp_path / NAME, Sample).records
    assert found.entropy is not None
    assert math.isnan(found.entropy)
    assert found.text == "?x"


def test_empty_journal_is_fine(tmp_path: Path) -> None:
    found = read(written(tmp_path, b""), Sample)
    assert (found.records, found.warnings) == ([], [])


@pytest.mark.parametrize("cut", [1, 40, len(LINES[2]) - 2])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_torn_last_line_is_dropped_with_a_warning_and_cut_off(tmp_path: Path, cut: int, end: bytes) -> None:
    path = written(tmp_path, LINES[0] + LINES[1] + LINES[2][:cut] + end)
    found = read(path, Sample)
    assert found.records == [sample(0), sample(1)]
    assert f"{path} line 3" in found.warnings[0]
    with Journal(path, Sample) as journal:
        journal.append([sample(2)])
    assert path.read_bytes() == b"".join(LINES)


def test_zeros_left_by_a_power_failure_are_a_torn_line(tmp_path: Path) -> None:
    path = written(tmp_path, LINES[0] + bytes(512))
    assert len(read(path, Sample).warnings) == 1
    with Journal(path, Sample) as journal:
        journal.append([sample(1)])
    assert path.read_bytes() == LINES[0] + LINES[1]


def test_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, LINES[0] + LINES[1].rstrip())
    assert read(path, Sample).warnings == []
    with Journal(path, Sample) as journal:
        journal.append([sample(2)])
    assert path.read_bytes() == b"".join(LINES)


def test_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, LINES[0] + LINES[1][:50] + b"\n" + LINES[2])
    with pytest.raises(UserError, match=r"samples\.jsonl line 2 "):
        read(path, Sample)
    with pytest.raises(UserError, match="line 2 "):
        Journal(path, Sample)
    assert path.read_bytes() == LINES[0] + LINES[1][:50] + b"\n" + LINES[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "one JSON object"),
        (b'{"schema_version": 3}', "field 'task'"),
        (LINES[0].replace(b'"text"', b'"texts"'), "Did you mean 'text'"),
        (LINES[0].replace(VERSION, b'"schema_version": 99'), "update the harness"),
        (LINES[0].replace(VERSION, b'"schema_version": true'), "whole number"),
    ],
)
def test_json_that_is_no_sample_is_refused_even_as_last_line(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"line 1.*{message}"):
        read(written(tmp_path, line), Sample)


def test_older_schema_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = json.loads(LINES[0])
    old["right"] = old.pop("key")
    newer = schema.SCHEMA_VERSION + 1
    monkeypatch.setattr(schema, "SCHEMA_VERSION", newer)
    monkeypatch.setitem(migrations.MIGRATIONS, ("Sample", newer - 1), lambda data: {"key": data.pop("right"), **data})
    (found,) = read(written(tmp_path, json.dumps(old).encode()), Sample).records
    assert (found.key, found.schema_version) == ("A", newer)


def test_failing_write_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with Journal(tmp_path / NAME, Sample) as journal:
        journal.append([sample(0)])
        monkeypatch.setattr(journals, "write_fully", half)
        with pytest.raises(RunError, match=r"No space left on device.*resume"):
            journal.append([sample(1), sample(2)])
        assert (tmp_path / NAME).read_bytes() == LINES[0]
        monkeypatch.undo()
        journal.append([sample(1)])
    assert (tmp_path / NAME).read_bytes() == LINES[0] + LINES[1]


def test_interrupt_between_write_and_sync_leaves_no_half_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with Journal(tmp_path / NAME, Sample) as journal:
        monkeypatch.setattr(journals.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.append([sample(0)])
    assert (tmp_path / NAME).read_bytes() == b""


def test_no_write_after_a_failure_that_could_not_be_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with Journal(tmp_path / NAME, Sample) as journal:
        monkeypatch.setattr(journals.os, "fsync", fail)
        monkeypatch.setattr(journals.os, "ftruncate", fail)
        with pytest.raises(RunError, match="Input/output"):
            journal.append([sample(0)])
        monkeypatch.undo()
        with pytest.raises(RunError, match="could not be restored"):
            journal.append([sample(1)])


LIMITED = """
import resource, sys
from pathlib import Path
from tests.support.record_examples import sample
from harness.errors import RunError
from harness.records.journal import Journal
from harness.records.schema import Sample
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
with Journal(Path(sys.argv[1]), Sample) as journal:
    try:
        for number in range(1000):
            journal.append([sample(number)])
    except RunError as error:
        print(number, error)
"""


def test_file_system_that_really_runs_full(tmp_path: Path) -> None:
    out, errors = child(LIMITED, tmp_path / NAME).communicate(timeout=60)
    assert "File too large" in out, errors
    found = read(tmp_path / NAME, Sample)
    assert found.warnings == []
    assert len(found.records) == int(out.split()[0]) > 5


def endless(path: Path) -> tuple[int, TextIO]:
    """Starts a process that writes for ever; returns its number and what it acknowledges."""
    read_end, write_end = os.pipe()
    if process := os.fork():
        os.close(write_end)
        return process, open(read_end)
    try:
        with Journal(path, Sample) as journal:
            for start in itertools.count(0, 4):
                journal.append([sample(number, text="x" * 5000) for number in range(start, start + 4)])
                os.write(write_end, f"{start + 4}\n".encode())
    finally:
        os._exit(1)  # never back into the tests


def test_killed_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for attempt in range(10):
        path = tmp_path / f"{attempt}.jsonl"
        writer, said = endless(path)
        with said:
            said.readline()
            time.sleep(0.003 * attempt)
            os.kill(writer, signal.SIGKILL)
            rest = said.read().split()
        os.waitpid(writer, 0)
        acknowledged = int(rest[-1]) if rest else 4
        found = read(path, Sample)
        assert [record.position for record in found.records] == list(range(len(found.records)))
        assert len(found.records) >= acknowledged
        with Journal(path, Sample) as journal:
            journal.append([sample()])
        assert read(path, Sample).warnings == []


def line_noise() -> st.SearchStrategy[bytes]:
    broken = st.builds(lambda at, junk: LINES[0][:at] + junk + b"\n", st.integers(0, 300), st.binary(max_size=9))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["task", "x"]), inner, max_size=2),
        max_leaves=5,
    )
    return st.sampled_from(LINES) | broken | values.map(lambda value: json.dumps(value).encode() + b"\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(line_noise(), max_size=4), st.binary(max_size=12))
def test_whatever_is_in_the_file_only_a_sentence_escapes(tmp_path: Path, lines: list[bytes], tail: bytes) -> None:
    path = written(tmp_path, b"".join(lines) + tail)
    try:
        found = read(path, Sample)
    except UserError:
        return
    with Journal(path, Sample) as journal:
        journal.append([sample(9)])
    after = read(path, Sample)
    assert after.warnings == []
    assert after.records[-1] == sample(9)
    assert len(after.records) == len(found.records) + 1
