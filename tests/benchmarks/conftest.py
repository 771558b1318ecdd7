"""Small datasets in the layout of the local copies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from tests.support.task_rows import Write


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes rows (or raw lines) to `<hub id>/<config>/<split>` below a folder that is the datasets folder."""
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, str(tmp_path))

    def _write(name: str, rows: Sequence[Any]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return _write
