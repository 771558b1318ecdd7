from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.fusers.c2c import Fuser
from harness.fusers.checkpoint import load, read_header, save, save_official
from tests.support.fuser_reference import FUSERS, GOLDEN, random_fuser, random_input, read_official


def _same(first: Fuser, second: Fuser) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    equal = all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    return equal and ours.keys() == theirs.keys() and first.config == second.config


@pytest.mark.parametrize("name", FUSERS)
def test_official_to_own_and_back_is_bit_equal(tmp_path: Path, name: str) -> None:
    source = GOLDEN / name / "fuser"
    save(load(source), tmp_path / "own")
    save_official(load(tmp_path / "own"), tmp_path / "official")
    for before, after in zip(read_official(source), read_official(tmp_path / "official"), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    for file in source.glob("*.json"):
        assert json.loads(file.read_text()) == json.loads((tmp_path / "official" / file.name).read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_to_official_and_back_is_bit_equal(tmp_path: Path, dtype: torch.dtype) -> None:
    fuser = random_fuser(num_layers=4, dropout=0.2, layer_map=((1, 0), (3, 2), (4, 2))).to(dtype)
    fuser.set_temperature_step(77)
    save(fuser, tmp_path / "own")
    assert _same(load(tmp_path / "own"), fuser)
    save_official(fuser, tmp_path / "official")
    assert _same(load(tmp_path / "official"), fuser)


def test_a_projector_file_holds_its_own_layer_only(tmp_path: Path) -> None:
    fuser = random_fuser(layer_map=tuple((layer, layer) for layer in range(20)))
    save_official(fuser, tmp_path)
    own = sum(value.numel() * value.element_size() for value in fuser.parameters()) / 20
    assert (tmp_path / "projector_0.pt").stat().st_size < own + 20_000


def test_a_loaded_fuser_is_ready_to_evaluate_and_to_train(tmp_path: Path) -> None:
    save(random_fuser(), tmp_path)
    fuser = load(tmp_path)
    assert not fuser.training
    assert all(value.requires_grad and not value.is_meta for value in fuser.parameters())
    fuser.train()(*random_input(fuser, 2)).sum().backward()


def test_projectors_are_found_by_the_map_not_by_their_number(tmp_path: Path) -> None:
    fuser = random_fuser()
    save_official(fuser, tmp_path)
    for suffix in ("pt", "json"):
        (tmp_path / f"projector_0.{suffix}").rename(tmp_path / f"projector_9.{suffix}")
    (tmp_path / "projector_config.json").write_text('{"0": {"3": {"2": [[1, 2]], "0": [[0, 9]], "1": [[0, 1]]}}}')
    assert _same(load(tmp_path), fuser)


def test_arguments_that_the_trainer_did_not_record_have_its_defaults(tmp_path: Path) -> None:
    fuser = random_fuser(sharer_heads=1, receiver_heads=1, intermediate_dim=1024, hidden_dim=1024, layer_map=((0, 0),))
    save_official(fuser, tmp_path)
    kept = {"source_dim": fuser.config.sharer_head_dim, "target_dim": fuser.config.receiver_head_dim}
    (tmp_path / "projector_0.json").write_text(json.dumps({"class": "C2CProjector", "init_args": kept}))
    assert _same(load(tmp_path), fuser)


def test_provenance_and_digest_are_kept(tmp_path: Path) -> None:
    save(random_fuser(), tmp_path, {"receiver": "r", "steps": 3, "loss": [1.5, None]})
    header = read_header(tmp_path)
    assert header.provenance == {"receiver": "r", "steps": 3, "loss": [1.5, None]}
    assert header.schema_version == 2
    assert len(header.weights_sha256) == 64


def test_saving_again_replaces_and_leaves_no_scraps(tmp_path: Path) -> None:
    save(random_fuser(0), tmp_path)
    save(random_fuser(1), tmp_path)
    assert _same(load(tmp_path), random_fuser(1))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fuser.json", "fuser.safetensors"]


def test_a_save_cut_short_between_its_files_is_recognised(tmp_path: Path) -> None:
    save(random_fuser(0), tmp_path / "old")
    save(random_fuser(1), tmp_path / "new")
    (tmp_path / "new" / "fuser.safetensors").replace(tmp_path / "old" / "fuser.safetensors")
    with pytest.raises(UserError, match=r"fuser\.safetensors.*digest"):
        load(tmp_path / "old")


def test_an_unfinished_official_save_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_official(random_fuser(0), tmp_path)
    monkeypatch.setattr(torch, "save", _full_disk)
    with pytest.raises(OSError, match="full"):
        save_official(random_fuser(1), tmp_path)
    with pytest.raises(UserError, match="holds no fuser"):
        load(tmp_path)


def _full_disk(*_: object) -> None:
    raise OSError("full")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    save(random_fuser(), tmp_path)
    header = json.loads((tmp_path / "fuser.json").read_text())
    (tmp_path / "fuser.json").write_text(json.dumps({**header, "schema_version": 3, "new_field": 1}))
    with pytest.raises(UserError, match=r"schema version 3.*reads up to 2"):
        load(tmp_path)


def test_a_folder_without_a_fuser_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "none")
    save(random_fuser(), tmp_path / "repo" / "final")
    with pytest.raises(UserError, match=r"neither fuser\.json nor projector_config\.json.*Did you mean .*final"):
        load(tmp_path / "repo")


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for writer in (save, save_official):
        with pytest.raises(UserError, match="file"):
            writer(random_fuser(), tmp_path / "file" / "sub")


def test_a_fuser_of_which_a_part_would_be_left_over_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "fuser"
    shutil.copytree(GOLDEN / "same_tokenizer/fuser", folder)
    path = folder / "projector_config.json"
    content = json.loads(path.read_text())
    next(iter(next(iter(content.values())).values())).popitem()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not name projector_\d+\.pt"):
        load(folder)


def test_a_folder_holds_one_fuser(tmp_path: Path) -> None:
    folder = tmp_path / "fuser"
    shutil.copytree(GOLDEN / "same_tokenizer/fuser", folder)
    save(load(folder), folder)
    with pytest.raises(UserError, match=r"two fusers, fuser\.json and projector_config\.json"):
        load(folder)
