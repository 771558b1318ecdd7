"""One run of the embedded pair from the command line, and its models in memory."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.paths import PAIR
from tests.support.relay import LETTERS_FILE

SETTINGS: dict[str, Any] = {
    "channels": ["receiver", "t2t:max_new_tokens=4", "c2c"],
    "controls": ["mismatched"],
    "tasks": [LETTERS_FILE],
    "limit": 5,
    "latency_samples": 0,
}
FLAGS = [
    word
    for name, value in SETTINGS.items()
    for word in (f"--{name}", ",".join(value) if isinstance(value, list) else str(value))
]


@pytest.fixture(scope="session")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run with `SETTINGS` on the command line."""
    path = tmp_path_factory.mktemp("commanded") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["run", *FLAGS, "--output_path", str(path)]) == 0
    return path


def loaded(role: str, kind: str = "float32") -> tuple[Any, Any]:
    """The transformers model and tokenizer of one role."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=getattr(torch, kind))
    return model, AutoTokenizer.from_pretrained(PAIR / role)


@pytest.fixture(scope="session")
def receiver() -> tuple[Any, Any]:
    return loaded("receiver")


@pytest.fixture(scope="session")
def sharer() -> tuple[Any, Any]:
    return loaded("sharer")


@pytest.fixture(scope="session")
def fuser() -> Any:
    from harness.fusers.checkpoint import load

    return load(PAIR / "fuser")
