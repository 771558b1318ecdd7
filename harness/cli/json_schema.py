"""JSON Schemas of everything that a run reads and leaves behind, generated from the models.

`python -m harness.cli.json_schema [folder]` writes them; a test finds a folder that was not regenerated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from harness.config import RunConfig
from harness.leaderboard.record_format import BoardRecord
from harness.leaderboard.reported.format import ReportedRecord
from harness.records.files import write_atomic
from harness.records.schema import RunRecord, Sample, Timing

MODELS: dict[str, type[BaseModel]] = {
    "run": RunRecord,
    "sample": Sample,
    "timing": Timing,
    "config": RunConfig,
    "board": BoardRecord,
    "reported": ReportedRecord,
}

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schema"


def pages() -> dict[str, str]:
    """Returns file name -> JSON Schema, always the same bytes for the same models."""
    return {f"{name}.schema.json": _schema(model) for name, model in MODELS.items()}


def _schema(model: type[BaseModel]) -> str:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Writes every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        write_atomic(folder / name, text)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
