"""A pair and chats on disk, which the runs of a test module share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training_runs import chats_on_disk, pair_on_disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pair")
    pair_on_disk(made)
    chats_on_disk(made)
    return made
