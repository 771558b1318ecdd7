"""Fusers on disk: our own format (one weights file, one JSON file) and the original trainer's.

Guarantees that loading executes nothing and that a folder written in part, by a crash or by two writers, is
recognised: the JSON file names the digest of the weights and is written last. The price is one pass over the
weights to compute it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from harness.errors import UserError
from harness.fusion.config import FuserConfig
from harness.fusion.fuser import Fuser
from harness.fusion.official import load_official, save_official
from harness.fusion.official_format import MAP_FILE
from harness.fusion.reading import TEMPERATURE, bad_file, check_tensors, first_problem, inside, read_small
from harness.fusion.shapes import KVShape, check_shapes
from harness.fusion.stack import entry_shapes
from harness.records.files import explained, sha256_file, write_atomic

__all__ = ["Header", "check_fits", "load", "read_header", "save", "save_official"]

SCHEMA_VERSION = 1
WEIGHTS_FILE = "fuser.safetensors"
HEADER_FILE = "fuser.json"


class _Version(BaseModel):
    schema_version: Annotated[int, Field(ge=1, strict=True)]


class Header(BaseModel):
    """What ``fuser.json`` holds.

    Attributes:
        schema_version: Of this file.
        config: Shapes, layer map and schedule.
        weights_sha256: Digest of the weights file.
        provenance: Where the fuser comes from, as its maker put it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    config: FuserConfig
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    provenance: dict[str, Any] | None = None


def load(path: str | Path) -> Fuser:
    """Loads a fuser of either format, in eval mode on the CPU.

    Raises:
        UserError: If the folder holds no fuser, or one that is damaged, hostile or of a newer schema.
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
    file = inside(Path(path), HEADER_FILE)
    content = read_small(file)
    try:
        version = _Version.model_validate_json(content).schema_version
        if version <= SCHEMA_VERSION:
            return Header.model_validate_json(content)
    except ValidationError as error:
        raise bad_file(file, first_problem(error)) from error
    raise UserError(f"{file} has schema version {version}; this harness reads up to {SCHEMA_VERSION}: update it.")


def _load_own(folder: Path) -> Fuser:
    header, weights = read_header(folder), inside(folder, WEIGHTS_FILE)
    if sha256_file(weights) != header.weights_sha256:
        raise bad_file(weights, f"its digest is not the one in {HEADER_FILE}, so it is damaged or of another save")
    with torch.device("meta"):
        fuser = Fuser(header.config)
    try:
        state: dict[str, Tensor] = load_file(weights)
    except SafetensorError as error:
        raise bad_file(weights, f"it is not a safetensors file ({error})") from error
    check_tensors(weights, state, _stacked_shapes(header.config))
    fuser.load_state_dict(state, assign=True)
    return fuser.eval()


def _stacked_shapes(config: FuserConfig) -> dict[str, tuple[int, ...]]:
    layers = len(config.layer_map)
    stacked = {name: (2 * layers, *shape) for name, shape in entry_shapes(config).items()}
    return {**stacked, TEMPERATURE: (layers,)}


def save(fuser: Fuser, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
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
    with explained(home):
        home.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in fuser.state_dict().items()}
    weights = to_safetensors(state)
    header = Header(
        config=fuser.config,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        provenance=None if provenance is None else dict(provenance),
    )
    write_atomic(home / WEIGHTS_FILE, weights)
    write_atomic(home / HEADER_FILE, header.model_dump_json(indent=2))


def check_fits(fuser: Fuser, receiver_shape: KVShape, sharer_shape: KVShape) -> None:
    """Checks that a fuser fits the caches of a receiver and a sharer.

    Raises:
        UserError: Names the layer and dimension that do not fit, what is expected and what was found.
    """
    check_shapes(fuser.config, receiver_shape, sharer_shape)
