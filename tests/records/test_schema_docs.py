from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.cli import json_schema
from harness.config import build
from tests.support.record_examples import board_record, reported_record, run_record, sample, timing

EXAMPLES = {
    "run": run_record(),
    "sample": sample(),
    "timing": timing(),
    "config": build({}),
    "board": board_record(),
    "reported": reported_record(),
}


def test_committed_schemas_are_the_generated_ones(tmp_path: Path) -> None:
    json_schema.write(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in json_schema.FOLDER.iterdir()
    }, "run: python -m harness.cli.json_schema"


@pytest.mark.parametrize("name", json_schema.MODELS)
def test_schema_accepts_what_is_written_and_refuses_more(name: str) -> None:
    contract: dict[str, Any] = json.loads(json_schema.pages()[f"{name}.schema.json"])
    jsonschema.Draft202012Validator.check_schema(contract)
    written = EXAMPLES[name].model_dump(mode="json")
    jsonschema.validate(written, contract)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "surprise": 1}, contract)
