"""The embedded pair is found from every working folder, and only it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.models.reference import parse_reference
from harness.paths import FACTWORLD_PAIR, FACTWORLD_PAIR_NAME, PAIR, PAIR_NAME, located


@pytest.mark.parametrize("part", ["receiver", "sharer", "fuser"])
@pytest.mark.parametrize(("name", "pair"), [(PAIR_NAME, PAIR), (FACTWORLD_PAIR_NAME, FACTWORLD_PAIR)])
def test_a_carried_pair_is_found_from_elsewhere(
    name: Path, pair: Path, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(str(name / part)) == pair / part
    if part != "fuser":
        assert parse_reference(str(name / part)).source == str(pair / part)


def test_another_relative_path_is_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("tasks/factworld/README.md") == Path("tasks/factworld/README.md")


def test_what_is_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = PAIR_NAME / "receiver"
    here.mkdir(parents=True)
    assert located(str(here)) == here
