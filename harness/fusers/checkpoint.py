"""Fusers on disk: our own format (one weights file, one JSON file) and the original trainer's.

Guarantees that loading executes nothing and that a folder written in part, by a crash or by two writers, is
recognised: the JSON file names the digest of the weights and is written last. The price is one pass over the
weights to compute it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from harness.errors import UserError
from harness.fusers.interface import FuserModule
from harness.fusers.layer_mapping import check_shapes
from harness.fusers.original_checkpoint import MAP_FILE, load_official
from harness.fusers.original_checkpoint import save_official as save_c2c
from harness.fusers.registry import C2C, FUSERS
from harness.fusers.safe_loading import bad_file, check_tensors, file_inside, first_problem, read_small
from harness.models.lm import KVShape
from harness.records.files import explaining, sha256_file, write_atomic

__all__ = ["Header", "check_fits", "load", "read_header", "save", "save_official"]


SCHEMA_VERSION = 2

WEIGHTS_FILE = "fuser.safetensors"

HEADER_FILE = "fuser.json"


class _Version(BaseModel):
    schema_version: Annotated[int, Field(ge=1, strict=True)]


class _File(BaseModel):
    """What ``fuser.json`` holds; the configuration is checked by the fuser's form."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    form: str = C2C
    config: dict[str, Any]
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    provenance: dict[str, Any] | None = None


@dataclass(frozen=True)
class Header:
    """What ``fuser.json`` says of a fuser.

    Attributes:
        schema_version: Of this file; 1 had no form, every fuser being of C2C's.
        form: Of the fuser.
        config: Shapes, layer map and what else the form's configuration holds.
        weights_sha256: Digest of the weights file.
        provenance: Where the fuser comes from, as its maker put it.
    """

    schema_version: int
    form: type[FuserModule]
    config: Any
    weights_sha256: str
    provenance: Mapping[str, Any] | None


def load(path: str | Path) -> FuserModule:
    """Loads a fuser of either format, in eval mode on the CPU.

    Raises:
        UserError: If the folder holds no fuser, one that is damaged, hostile or of a newer schema, or of a form that is
            not installed.
    """
    folder = Path(path)
    if (folder / HEADER_FILE).is_file() and (folder / MAP_FILE).is_file():
        raise UserError(
            f"Folder {str(path)!r} holds two fusers, {HEADER_FILE} and {MAP_FILE}; which is meant is not known, so "
            " remove the files of one."
        )
    if (folder / HEADER_FILE).is_file():
        return _load_own(folder)
    if (folder / MAP_FILE).is_file():
        return load_official(folder)
    if not folder.is_dir():
        raise UserError(f"Fuser {str(path)!r} is not a folder; give one that holds {HEADER_FILE} or {MAP_FILE}.")
    nested = sorted(found.parent for name in (HEADER_FILE, MAP_FILE) for found in folder.glob(f"*/{name}"))
    hint = f" Did you mean {str(nested[0])!r}?" if nested else ""
    raise UserError(f"Folder {str(path)!r} holds no fuser: neither {HEADER_FILE} nor {MAP_FILE} is there.{hint}")


def read_header(path: str | Path) -> Header:
    """Reads ``fuser.json`` alone.

    Raises:
        UserError: If it is missing, damaged or of a newer schema.
    """
    file = file_inside(Path(path), HEADER_FILE)
    content = read_small(file)
    try:
        version = _Version.model_validate_json(content).schema_version
        if version <= SCHEMA_VERSION:
            return _header(_File.model_validate_json(content), file)
    except ValidationError as error:
        raise bad_file(file, first_problem(error)) from error
    raise UserError(f"{file} has schema version {version}; this harness reads up to {SCHEMA_VERSION}: update it.")


def _load_own(folder: Path) -> FuserModule:
    header, weights = read_header(folder), file_inside(folder, WEIGHTS_FILE)
    if sha256_file(weights) != header.weights_sha256:
        raise bad_file(weights, f"its digest is not the one in {HEADER_FILE}, so it is damaged or of another save")
    with torch.device("meta"):
        fuser = header.form(header.config)
    try:
        state: dict[str, Tensor] = load_file(weights)
    except SafetensorError as error:
        raise bad_file(weights, f"it is not a safetensors file ({error})") from error
    check_tensors(weights, state, {name: tuple(value.shape) for name, value in fuser.state_dict().items()})
    fuser.load_state_dict(state, assign=True)
    return fuser.eval()


def _header(found: _File, file: Path) -> Header:
    form = FUSERS.get(found.form).load()
    try:
        config = TypeAdapter(form.config_type).validate_json(json.dumps(found.config))
    except ValidationError as error:
        raise bad_file(file, f"config.{first_problem(error)}") from error
    return Header(found.schema_version, form, config, found.weights_sha256, found.provenance)


def save_official(fuser: FuserModule, folder: Path) -> None:
    """Writes the original trainer's format.

    Raises:
        UserError: If the fuser is not of the C2C form, or the folder cannot be written.
        RunError: If the disk is full.
    """
    if fuser.form != C2C:
        raise UserError(f"The original format holds C2C fusers alone, and this one is of form {fuser.form!r}.")
    save_c2c(cast("Any", fuser), folder)


def save(fuser: FuserModule, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Writes our own format into a folder, which is created if missing.

    Args:
        fuser: What to save.
        folder: Where to; files of an earlier save are replaced.
        provenance: JSON-like facts about the fuser's origin.

    Raises:
        UserError: If the folder cannot be written.
        RunError: If the disk is full.
    """
    home = Path(folder)
    with explaining(home):
        home.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in fuser.state_dict().items()}
    weights = to_safetensors(state)
    header = _File(
        form=fuser.form,
        config=TypeAdapter(fuser.config_type).dump_python(fuser.config, mode="json"),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        provenance=None if provenance is None else dict(provenance),
    )
    write_atomic(home / WEIGHTS_FILE, weights)
    write_atomic(home / HEADER_FILE, header.model_dump_json(indent=2))


def check_fits(fuser: FuserModule, receiver_shape: KVShape, sharer_shape: KVShape) -> None:
    """Checks that a fuser fits the caches of a receiver and a sharer.

    Raises:
        UserError: Names the layer and dimension that do not fit, what is expected and what was found.
    """
    check_shapes(fuser.config, receiver_shape, sharer_shape)
