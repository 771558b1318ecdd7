from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunError, UserError
from harness.records import files


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_atomic(path, "a longer first text")
    files.write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_failure_at_any_step_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a.json"
    files.write_atomic(path, "old")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(RunError, match="No space left"):
        files.write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: real(fd, data[:3]))
    files.write_atomic(tmp_path / "a", "0123456789")
    assert (tmp_path / "a").read_text() == "0123456789"


def test_unusable_path_is_the_users_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a path"):
        files.write_atomic(tmp_path / "file" / "a", "x")
    with pytest.raises(UserError, match="choose a path"):
        files.write_atomic(tmp_path / "missing" / "a", "x")


def test_digest_covers_name_and_content_but_not_order_or_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    whole = files.sha256_files([one / "a", one / "b"])
    assert whole == files.sha256_files([two / "b", two / "a"])
    (two / "a").rename(two / "c")
    assert whole != files.sha256_files([two / "c", two / "b"])
    (one / "a").write_text("3")
    os.utime(one / "a", ns=(1, 1))
    assert whole != files.sha256_files([one / "a", one / "b"])


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_text("weights")
    first = files.sha256_file(path)
    monkeypatch.setattr(files, "_digest", lambda _: pytest.fail("read again"))
    assert files.sha256_file(path) == first
    with pytest.raises(UserError, match="gone"):
        files.sha256_file(tmp_path / "gone")
