"""Names and folders of shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.bench.model_shapes import EXAMPLES, MODELS, read_pair
from harness.errors import UserError


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_names_two_known_models(text: str) -> None:
    receiver, sharer = read_pair(text)
    assert {receiver.name, sharer.name} <= MODELS.keys()


def test_the_receiver_comes_first() -> None:
    assert [shape.name for shape in read_pair("qwen3-0.6b+qwen2.5-0.5b")] == ["qwen3-0.6b", "qwen2.5-0.5b"]


def test_a_folder_may_stand_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    receiver, sharer = read_pair(f"{tmp_path}+tiny-b")
    assert (receiver.folder, sharer.folder) == (tmp_path, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qwen3-0.6b", "joined by .* known are tiny, tiny-a, "),
        ("a+b+c", "joined by"),
        ("qwen3-06b+tiny-b", "Did you mean 'qwen3-0.6b'"),
        ("/nowhere/model+tiny-b", "no config.json"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_pair(text)
