"""Commands that have to end in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import cli

Refused = Callable[..., str]


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int = 2) -> str:
    """Runs a command and returns its one sentence; anything else on standard error or another exit code fails."""
    capsys.readouterr()
    found = cli.main(list(arguments))
    said = capsys.readouterr().err.splitlines()
    assert found == code, (found, said)
    assert [line for line in said if line.startswith("Error: ")] == said[-1:], said
    assert not any("Traceback" in line for line in said), said
    assert len(said[-1]) < 1500, said[-1]
    return said[-1]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
