"""Untrusted files of a checkpoint, read as data only.

Guarantees that nothing in a checkpoint is executed, that no file outside its folder is opened, and that
sizes are checked before memory is taken. What is wrong ends in one sentence that names the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from harness.errors import UserError

TEMPERATURE = "gate_temperature"

JSON_BYTES = 4 * 2**20

_SLACK_BYTES = 4 * 2**20

_ADVICE = "fetch the checkpoint again"


def bad_file(path: Path, reason: str) -> UserError:
    """Builds the error for a file that cannot be used."""
    return UserError(f"Checkpoint file {path} cannot be used: {reason}; {_ADVICE}.")


def first_problem(error: ValidationError, names: Mapping[str, str] | None = None) -> str:
    """Returns pydantic's first complaint in one line, with fields renamed as the file calls them."""
    problem = error.errors()[0]
    place = ".".join((names or {}).get(str(part), str(part)) for part in problem["loc"]) or "content"
    return f"{place}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def file_inside(folder: Path, name: str) -> Path:
    """Returns a file of the folder.

    Links may lead to the blobs of the hub cache that the folder itself belongs to, and nowhere else.

    Raises:
        UserError: If the file is missing or a link leads elsewhere.
    """
    path = folder / name
    if not path.is_file():
        raise UserError(f"Checkpoint file {path} is missing; {_ADVICE}.")
    home, target = folder.resolve(), path.resolve()
    allowed = [home, *(up.parent / "blobs" for up in home.parents if up.name == "snapshots")]
    if not any(target.is_relative_to(root) for root in allowed):
        raise bad_file(path, f"it is a link to {target}, outside the checkpoint")
    return path


def read_small(path: Path) -> bytes:
    """Reads a JSON file that is small enough to be one.

    Raises:
        UserError: If it is too large.
    """
    size = path.stat().st_size
    if size > JSON_BYTES:
        raise bad_file(path, f"it has {size} bytes, at most {JSON_BYTES} are allowed")
    return path.read_bytes()


def read_tensors(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Reads a ``torch.save`` file that must hold exactly the expected floating-point tensors.

    Args:
        path: The file.
        expected: Name and shape of each tensor.

    Raises:
        UserError: If the file is damaged, holds anything but tensors, or other ones than expected.
    """
    _check_archive(path, sum(_elements(shape) for shape in expected.values()))
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file may make the restricted unpickler raise anything
        raise bad_file(path, f"it does not hold plain tensors ({type(error).__name__})") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise bad_file(path, "it does not hold a dictionary of tensors")
    check_tensors(path, found, expected)
    return found


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks names, shapes, dtypes and finiteness of what a file holds.

    Raises:
        UserError: Names the first tensor that is wrong.
    """
    for name in sorted(expected.keys() ^ found.keys(), key=str):
        raise bad_file(path, f"tensor {str(name)!r} is {'missing' if name in expected else 'not known'}")
    dtypes = {str(value.dtype) for name, value in found.items() if name != TEMPERATURE}
    if len(dtypes) > 1:
        raise bad_file(path, f"it mixes dtypes ({', '.join(sorted(dtypes))})")
    for name, value in found.items():
        if tuple(value.shape) != expected[name]:
            raise bad_file(path, f"tensor {name!r} has shape {tuple(value.shape)}, expected {expected[name]}")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise bad_file(path, f"tensor {name!r} has dtype {value.dtype}, expected dense floating point")
        if not bool(torch.isfinite(value).all()):
            raise bad_file(path, f"tensor {name!r} contains NaN or infinity")


def _check_archive(path: Path, elements: int) -> None:
    """Refuses archives whose contents cannot be the expected tensors, before anything is unpacked."""
    if not zipfile.is_zipfile(path):
        raise bad_file(path, "it is truncated or was not written by torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise bad_file(path, f"it is damaged ({error})") from error
    size = sum(member.file_size for member in members)
    if not elements <= size <= 8 * elements + _SLACK_BYTES:
        raise bad_file(path, f"it unpacks to {size} bytes, which does not match the {elements} numbers declared")


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
