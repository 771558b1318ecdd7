from __future__ import annotations

from pathlib import Path

import pytest

from tests.imported.build import write_datasets


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the data sets in `data`; the board is `boards`."""
    write_datasets(tmp_path / "data")
    return tmp_path
