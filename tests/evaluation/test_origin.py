"""What the files of trained weights say of their origin, on the way to a board."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.evaluation.fingerprint import of_adapter, of_fuser
from harness.fusers.checkpoint import save
from harness.leaderboard import add_record, write
from harness.records.files import COST_FILE, sha256_files
from tests.support.synthetic import Plan, run
from tests.support.synthetic import write as write_run
from tests.support.tiny import random_fuser, shared_lm

MADE = {
    "receiver": "/home/somebody/model",
    "recipe": {"seed": 7, "data": "/home/somebody/rows.jsonl", "steps": None, "learning_rate": 1e-3, "compile": True},
    "weights_sha256": ["a", "b"],
    "steps": 756,
    "data_fingerprint": "ab" * 32,
}
TOLD = {"seed": 7, "learning_rate": 1e-3, "compile": True, "steps": 756, "data_fingerprint": "ab" * 32}


def fuser(folder: Path, provenance: Any) -> Path:
    lm = shared_lm()
    save(random_fuser(lm, lm), folder, provenance)
    return folder


def test_a_fuser_tells_its_numbers_and_no_folder(tmp_path: Path) -> None:
    assert of_fuser(fuser(tmp_path, MADE)) == TOLD


def test_an_adapter_tells_the_same(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1)}
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"provenance": json.dumps(MADE)})
    assert of_adapter(tmp_path) == TOLD


def test_what_a_training_cost_is_told_and_changes_no_digest(tmp_path: Path) -> None:
    folder = fuser(tmp_path, MADE)
    before = sha256_files(folder.iterdir())
    (folder / COST_FILE).write_text('{"train_cpu_s": 12.5, "note": "a/b", "more": [1]}')
    assert of_fuser(folder) == {**TOLD, "train_cpu_s": 12.5}
    assert sha256_files(folder.iterdir()) == before
    (folder / COST_FILE).write_text("[")
    assert of_fuser(folder) == TOLD


@pytest.mark.parametrize("metadata", [None, {"provenance": "{"}, {"provenance": "[1]"}, {"provenance": '{"x": NaN}'}])
def test_an_adapter_from_elsewhere_tells_nothing(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors", metadata)
    assert of_adapter(tmp_path) == {}


def test_a_file_cannot_tell_a_story(tmp_path: Path) -> None:
    hostile = {"recipe": ["seed"], "seed": {"a": 1}, "note": "x" * 101, "steps": 3}
    hostile |= {"receiver_chat_template": "/home/somebody/chat.jinja"}
    assert of_fuser(fuser(tmp_path, hostile)) == {"steps": 3}
    assert of_fuser(fuser(tmp_path / "none", None)) == {}


def test_a_board_says_what_was_trained_once(tmp_path: Path) -> None:
    fusers = [
        {"reference": "pair", "fingerprint": "1" * 64, "training": {**TOLD, "global_batch": 16, "note": "<b>|"}},
        {
            "reference": "own",
            "role": "self",
            "fingerprint": "2" * 64,
            "training": {"seed": 8, "dropout": 0, "epochs": 1},
        },
        {
            "reference": "own2",
            "role": "self",
            "fingerprint": "4" * 64,
            "training": {"seed": 9, "dropout": 0, "epochs": 2},
        },
        {"reference": "bought", "fingerprint": "3" * 64, "training": {}},
    ]
    for number in range(2):
        made = run([Plan(n=8, timed=0)], run_id=f"run-{number}", fusers=fusers)
        add_record(tmp_path / "board", write_run(made, tmp_path / f"run-{number}"))
    write(tmp_path / "board")
    section = (tmp_path / "board" / "openbookqa.md").read_text().partition("#### What was trained")[2]
    listed = [line for line in section.splitlines() if line.startswith("* ")]
    lines, shared = listed[:3], listed[3:]
    assert (len(lines), len(shared)) == (3, 2)
    assert "**pair** (fuser): sha256 111111111111, " in lines[0]
    assert "seed 7, steps x batch 756 x 16, learning rate 0.001, rows of digest abababababab" in lines[0]
    assert "note &lt;b&gt;&#124;" in shared[0]
    assert lines[1].startswith("* **own** (self-fuser): sha256 222222222222, seed 8, ")
    assert [line.rsplit(", ", 1)[1] for line in lines[1:]] == ["epochs 1", "epochs 2"]
    assert shared[1] == "* self-fuser: dropout 0"
