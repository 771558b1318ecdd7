from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imported.build import write_datasets
from tests.support.published import publish_few


@pytest.fixture(scope="package", autouse=True)
def few_published() -> Iterator[None]:
    """Boards of this folder are small."""
    with pytest.MonkeyPatch.context() as patch:
        publish_few(patch)
        yield


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the data sets in `data`; the board is `boards`."""
    write_datasets(tmp_path / "data")
    return tmp_path
