from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.fusers.checkpoint import HEADER_FILE, WEIGHTS_FILE
from harness.paths import PAIR
from harness.records.files import sha256_file
from tests.support.refusals import edit, refused
from tests.support.tiny import GOLDEN

Change = Callable[[Path], object]


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def header(**values: Any) -> Change:
    return lambda folder: edit(folder / HEADER_FILE, lambda h: h.update(values))


def shape(**values: Any) -> Change:
    return lambda folder: edit(folder / HEADER_FILE, lambda h: h["config"].update(values))


def argument(**values: Any) -> Change:
    return lambda folder: edit(folder / "projector_1.json", lambda p: p["init_args"].update(values))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Changes the weights and has the header name their new digest."""

    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS_FILE)
        change(state)
        save_file(state, folder / WEIGHTS_FILE)
        header(weights_sha256=sha256_file(folder / WEIGHTS_FILE))(folder)

    return apply


def projector(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        state = torch.load(folder / "projector_1.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "projector_1.pt")

    return apply


def first(state: dict[str, torch.Tensor]) -> str:
    return min(name for name in state if state[name].ndim > 1)


def mapped(text: bytes) -> Change:
    return write("projector_config.json", text)


OWN: dict[str, Change] = {
    "no weights": lambda f: (f / WEIGHTS_FILE).unlink(),
    "weights cut short": lambda f: (f / WEIGHTS_FILE).open("r+b").truncate(1000),
    "weights are empty": write(WEIGHTS_FILE, b""),
    "header is no JSON": write(HEADER_FILE, b"{"),
    "header is empty": write(HEADER_FILE, b"{}"),
    "header is a list": write(HEADER_FILE, b"[]"),
    "header is not UTF-8": write(HEADER_FILE, b"\xff"),
    "newer schema": header(schema_version=3),
    "schema zero": header(schema_version=0),
    "schema is text": header(schema_version="1"),
    "unknown field": header(colour="red"),
    "digest of another save": header(weights_sha256="0" * 64),
    "digest is no digest": header(weights_sha256="abc"),
    "config is missing": lambda f: edit(f / HEADER_FILE, lambda h: h.pop("config")),
    "negative width": shape(hidden_dim=-1),
    "huge width": shape(hidden_dim=10**12),
    "other width": shape(hidden_dim=65),
    "no layers": shape(layer_map=[]),
    "layer twice": shape(layer_map=[[0, 1], [0, 2], [1, 3]]),
    "layer below zero": shape(layer_map=[[-1, 0]]),
    "fewer layers": shape(layer_map=[[0, 0]]),
    "too shallow": shape(num_layers=2),
    "dropout of one": shape(dropout=1.0),
    "a tensor is missing": tensors(lambda s: s.pop(first(s))),
    "a tensor too many": tensors(lambda s: s.update({"extra": torch.ones(1)})),
    "a tensor of another shape": tensors(lambda s: s.update({first(s): torch.ones(3)})),
    "a tensor of whole numbers": tensors(lambda s: s.update({n: t.long() for n, t in s.items()})),
    "mixed dtypes": tensors(lambda s: s.update({first(s): s[first(s)].double()})),
    "NaN": tensors(lambda s: s[first(s)].view(-1)[:1].fill_(float("nan"))),
}
OFFICIAL: dict[str, Change] = {
    "no projector": lambda f: (f / "projector_1.pt").unlink(),
    "no projector config": lambda f: (f / "projector_1.json").unlink(),
    "projector is empty": write("projector_1.pt", b""),
    "projector is noise": write("projector_1.pt", os.urandom(500)),
    "projector is cut short": lambda f: (f / "projector_1.pt").open("r+b").truncate(1000),
    "map is no JSON": mapped(b"{"),
    "map is empty": mapped(b"{}"),
    "map has two receivers": mapped(b'{"0": {"1": {"0": [[0, 0]]}}, "1": {"1": {"0": [[0, 0]]}}}'),
    "map has two projectors": mapped(b'{"0": {"1": {"0": [[0, 0], [1, 1]]}}}'),
    "map has no layer": mapped(b'{"0": {"1": {}}}'),
    "map names a missing projector": mapped(b'{"0": {"1": {"0": [[0, 7]]}}}'),
    "map names a path": mapped(b'{"0": {"1": {"0": [[0, "../1"]]}}}'),
    "other class": lambda f: edit(f / "projector_1.json", lambda p: p.update({"class": "os.system"})),
    "unknown argument": argument(colour="red"),
    "other dtype": argument(dtype={"__type__": "torch.dtype", "value": "int8"}),
    "other shape than the first": argument(hidden_dim=32),
    "width is text": argument(hidden_dim="64"),
    "a tensor is missing": projector(lambda s: s.pop(first(s))),
    "a tensor too many": projector(lambda s: s.update({"extra": torch.ones(1)})),
    "a tensor of another shape": projector(lambda s: s.update({first(s): torch.ones(3)})),
    "infinity": projector(lambda s: s[first(s)].view(-1)[:1].fill_(float("inf"))),
}
CASES = [
    *((PAIR / "fuser", name, change) for name, change in OWN.items()),
    *((GOLDEN / "same_tokenizer" / "fuser", name, change) for name, change in OFFICIAL.items()),
]


@pytest.mark.parametrize(("source", "name", "change"), CASES, ids=[f"{s.parent.name}: {n}" for s, n, _ in CASES])
def test_a_fuser_folder_is_refused_in_a_sentence(
    source: Path, name: str, change: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source, tmp_path / "fuser")
    change(tmp_path / "fuser")
    assert str(tmp_path / "fuser") in refused(capsys, ["convert", str(tmp_path / "fuser"), str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickled_payload_is_not_run(plain: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / "same_tokenizer" / "fuser", tmp_path / "fuser")
    hostile = tmp_path / "fuser" / "projector_1.pt"
    state = {**torch.load(hostile, weights_only=True), "payload": Payload(tmp_path / "executed")}
    if plain:
        hostile.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, hostile)
    cast = ["--receiver", str(GOLDEN / "same_tokenizer/receiver"), "--sharer", str(GOLDEN / "same_tokenizer/sharer")]
    run = ["run", "--limit", "2", "--tasks", "relay_one", *cast, "--channels", "c2c", "--controls", ""]
    assert "projector_1.pt" in refused(capsys, [*run, "--fuser", str(tmp_path / "fuser")])
    assert "projector_1.pt" in refused(capsys, ["convert", str(tmp_path / "fuser"), str(tmp_path / "new")])
    assert not (tmp_path / "executed").exists()


def test_a_conversion_never_replaces_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exists already" in refused(capsys, ["convert", str(PAIR / "fuser"), str(tmp_path)])
