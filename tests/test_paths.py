"""The embedded pair is found from every working folder, and only it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.models.reference import parse_reference
from harness.paths import PAIR, PAIR_NAME, locate


@pytest.mark.parametrize("part", ["receiver", "sharer", "fuser"])
def test_the_carried_pair_is_found_from_elsewhere(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(str(PAIR_NAME / part)) == PAIR / part
    if part != "fuser":
        assert parse_reference(str(PAIR_NAME / part)).source == str(PAIR / part)


def test_another_relative_path_is_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("tasks/relay/README.md") == Path("tasks/relay/README.md")


def test_what_is_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = PAIR_NAME / "receiver"
    here.mkdir(parents=True)
    assert locate(str(here)) == here
