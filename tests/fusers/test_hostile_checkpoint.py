from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.fusers.checkpoint import load, save
from harness.records.files import sha256_file
from tests.support.fuser_reference import GOLDEN, random_fuser


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "fuser"
    shutil.copytree(GOLDEN / "same_tokenizer" / "fuser", copy)
    return copy


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _edit_tensors(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def _refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_pickled_payload_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    state = torch.load(folder / "projector_1.pt", weights_only=True)
    torch.save({**state, "key_in.weight": Bomb(mark)}, folder / "projector_1.pt")
    _refused(folder, "projector_1.pt", "plain tensors")
    (folder / "projector_1.pt").write_bytes(pickle.dumps(Bomb(mark)))
    _refused(folder, "projector_1.pt", "truncated or was not written by torch.save")
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 100, 300_000])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "projector_2.pt"
    path.write_bytes(path.read_bytes()[:keep])
    _refused(folder, "projector_2.pt", "truncated")


def test_flipped_bytes_never_give_a_traceback(folder: Path) -> None:
    path = folder / "projector_0.pt"
    clean, refusals = path.read_bytes(), []
    for place in range(40, 2_000, 61):
        path.write_bytes(clean[:place] + bytes([clean[place] ^ 0xFF]) + clean[place + 1 :])
        try:
            load(folder)
        except UserError as error:
            refusals.append(str(error))
    assert refusals
    assert all("projector_0.pt" in refusal for refusal in refusals)


def test_an_archive_that_inflates_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "projector_0.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("projector_0/data/bomb", bytes(64 * 2**20))
    _refused(folder, "projector_0.pt", "unpacks to")


def test_huge_declared_widths_take_no_memory(folder: Path) -> None:
    for index in range(4):
        _edit(folder / f"projector_{index}.json", lambda x: x["init_args"].update(hidden_dim=65536))
    _refused(folder, "projector_0.pt", "does not match")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_dim": 10**9}, ("hidden_dim", "less than or equal")),
        ({"hidden_dim": 0}, ("hidden_dim", "greater than or equal")),
        ({"hidden_dim": "64"}, ("hidden_dim", "integer")),
        ({"hidden_dim": True}, ("hidden_dim", "integer")),
        ({"source_dim": 0}, ("source_dim",)),
        ({"num_layers": 10**6}, ("num_layers",)),
        ({"dropout": float("nan")}, ("dropout",)),
        ({"anneal_steps": 1.5}, ("anneal_steps",)),
        ({"surprise": 1}, ("'surprise' is not known",)),
        ({"dtype": {"__type__": "os.system", "value": "ls"}}, ("__type__",)),
        ({"dtype": "float32"}, ("projector_3.json",)),
    ],
)
def test_bad_init_arguments_are_named(folder: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    _edit(folder / "projector_3.json", lambda x: x["init_args"].update(change))
    _refused(folder, "projector_3.json", *words)


def test_a_missing_init_argument_is_named(folder: Path) -> None:
    _edit(folder / "projector_3.json", lambda x: x["init_args"].pop("target_dim"))
    _refused(folder, "projector_3.json", "target_dim", "required")


def test_another_class_is_refused(folder: Path) -> None:
    _edit(folder / "projector_1.json", lambda x: x.update({"class": "os.system"}))
    _refused(folder, "projector_1.json", "class")


def test_a_layer_of_other_shapes_is_named(folder: Path) -> None:
    _edit(folder / "projector_2.json", lambda x: x["init_args"].update(hidden_dim=32))
    _refused(folder, "receiver layer 2", "hidden_dim 32", "64")


def test_a_layer_of_another_dtype_is_named(folder: Path) -> None:
    _edit_tensors(folder / "projector_2.pt", lambda x: x.update({k: v.double() for k, v in x.items()}))
    _refused(folder, "projector_2.pt", "dtype", "float64")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.pop("value_in.bias"), ("'value_in.bias' is missing",)),
        (lambda x: x.update(extra=torch.zeros(1)), ("'extra' is not known",)),
        (lambda x: x.update({"key_in.bias": torch.zeros(63)}), ("'key_in.bias'", "(63,)", "(64,)")),
        (lambda x: x.update({"key_in.bias": torch.full((64,), torch.nan)}), ("'key_in.bias'", "NaN")),
        (lambda x: x.update({"key_in.bias": torch.zeros(64, dtype=torch.int64)}), ("projector_1.pt", "mixes dtypes")),
        (lambda x: x.update({"key_in.bias": torch.zeros(64).to_sparse()}), ("projector_1.pt",)),
        (lambda x: x.update({"key_in.bias": "text"}), ("dictionary of tensors",)),
    ],
)
def test_wrong_tensors_are_named(folder: Path, change: Callable[[dict[str, Any]], object], words: tuple[str]) -> None:
    _edit_tensors(folder / "projector_1.pt", change)
    _refused(folder, "projector_1.pt", *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ("invalid JSON",)),
        ("[" * 100_000, ("projector_config.json",)),
        ("{}", ("at least 1",)),
        ('{"0": {"1": {}}}', ("maps no layer",)),
        ('{"0": {"1": {"0": [[0, 0]]}, "2": {"0": [[0, 0]]}}}', ("at most 1",)),
        ('{"0": {"1": {"0": [[0, 0], [1, 1]]}}}', ("layer 0 has 2 projectors",)),
        ('{"0": {"1": {"0": [[0, "../../secret"]]}}}', ("valid integer",)),
        ('{"0": {"1": {"0": [[0, -1]]}}}', ("greater than or equal to 0",)),
        ('{"0": {"1": {"0": [[0, true]]}}}', ("valid integer",)),
        ('{"0": {"1": {"../0": [[0, 0]]}}}', ("pattern",)),
        ('{"0": {"1": {"0": [[0, 17]]}}}', ("projector_17.json is missing",)),
        ("null", ("object",)),
        (" " * (5 * 2**20), ("at most",)),
    ],
)
def test_a_bad_map_is_refused(folder: Path, content: str, words: tuple[str, ...]) -> None:
    (folder / "projector_config.json").write_text(content)
    _refused(folder, *words)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "projector_0.pt").rename(tmp_path / "elsewhere.pt")
    (folder / "projector_0.pt").symlink_to(tmp_path / "elsewhere.pt")
    _refused(folder, "projector_0.pt", "outside the checkpoint")


def test_links_into_the_hub_caches_blobs_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc" / "final", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    assert load(snapshot).layers == 4


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save(random_fuser(), tmp_path / "own")
    return tmp_path / "own"


def _resigned(own: Path) -> None:
    """Writes the digest of whatever the weights file is now."""
    _edit(own / "fuser.json", lambda x: x.update(weights_sha256=sha256_file(own / "fuser.safetensors")))


def test_own_weights_that_are_truncated_are_refused(own: Path) -> None:
    path = own / "fuser.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    _refused(own, "fuser.safetensors", "digest")
    _resigned(own)
    _refused(own, "fuser.safetensors", "not a safetensors file")


def test_own_weights_of_other_shapes_are_refused(own: Path) -> None:
    state = load_file(own / "fuser.safetensors")
    save_file({**state, "in_bias": torch.zeros(6, 7)}, own / "fuser.safetensors")
    _resigned(own)
    _refused(own, "fuser.safetensors", "'in_bias'", "(6, 7)", "(6, 8)")


def test_own_huge_declared_widths_take_no_memory(own: Path) -> None:
    _edit(own / "fuser.json", lambda x: x["config"].update(hidden_dim=65536, intermediate_dim=65536, num_layers=64))
    _refused(own, "fuser.safetensors", "is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x["config"].update(hidden_dim=-1), ("config.hidden_dim",)),
        (lambda x: x["config"].update(layer_map=[[1, 0], [0, 0]]), ("config.layer_map", "ascend")),
        (lambda x: x["config"].pop("hidden_dim"), ("config.hidden_dim", "required")),
        (lambda x: x.update(surprise=1), ("surprise",)),
        (lambda x: x.update(schema_version="1"), ("schema_version",)),
        (lambda x: x.pop("weights_sha256"), ("weights_sha256",)),
    ],
)
def test_a_bad_header_is_named(own: Path, change: Callable[[dict[str, Any]], object], words: tuple[str, ...]) -> None:
    _edit(own / "fuser.json", change)
    _refused(own, "fuser.json", *words)


def test_missing_own_weights_are_named(own: Path) -> None:
    (own / "fuser.safetensors").unlink()
    _refused(own, "fuser.safetensors is missing")
