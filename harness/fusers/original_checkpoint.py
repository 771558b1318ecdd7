"""The checkpoint format of the original C2C trainer: its names and shapes, reading and writing.

The format keeps one projector a receiver layer. Guarantees a bit-equal round trip; both directions use one table of
names, so they cannot drift apart. Reads folders with one receiver, one sharer and one projector a layer, whatever
numbers the trainer gave them. All layers must share their shapes, because the weights are stacked here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from harness.errors import UserError
from harness.fusers.c2c import Fuser, FuserConfig, entry_shapes
from harness.fusers.safe_loading import TEMPERATURE, bad_file, file_inside, first_problem, read_small, read_tensors
from harness.records.files import explaining, write_atomic

MAP_FILE = "projector_config.json"

PROJECTOR_CLASS = "C2CProjector"

KINDS = ("key", "value")

ARGUMENTS = {
    "source_num_heads": "sharer_heads",
    "source_dim": "sharer_head_dim",
    "target_num_heads": "receiver_heads",
    "target_dim": "receiver_head_dim",
    **{name: name for name in ("hidden_dim", "intermediate_dim", "num_layers", "dropout")},
    **{name: name for name in ("initial_temperature", "final_temperature", "anneal_steps")},
}

# The trainer records only the arguments that it passed; these are what its constructor fills in.
ARGUMENT_DEFAULTS = {
    "source_num_heads": 1,
    "target_num_heads": 1,
    "hidden_dim": 1024,
    "intermediate_dim": 1024,
    "num_layers": 3,
}


_Index = Annotated[int, Field(ge=0, lt=1024)]

_Key = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,3})$")]

PROJECTOR_MAP = TypeAdapter(
    Annotated[
        dict[_Key, Annotated[dict[_Key, dict[_Key, list[tuple[_Index, _Index]]]], Field(min_length=1, max_length=1)]],
        Field(min_length=1, max_length=1),
    ]
)


class DTypeMarker(BaseModel):
    """How the trainer's JSON writes a torch dtype."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Annotated[str, Field(alias="__type__", pattern=r"^torch\.dtype$")]
    value: Annotated[str, Field(pattern=r"^(float32|float16|bfloat16|float64)$")]


class Projector(BaseModel):
    """What ``projector_{i}.json`` holds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    class_name: Annotated[str, Field(alias="class", pattern=f"^{PROJECTOR_CLASS}$")]
    init_args: dict[str, Any]


def official_name(kind: str, name: str) -> str:
    """Returns the original name of one kind of one of our parameters."""
    if name == "gate_logit":
        return f"{kind}_gate_logit"
    block = re.fullmatch(r"(mlp1|scalar_mlp2|proj_mlp2)(?:_(\d+))?_(norm|w1|w2)(?:_weight)?", name)
    if block:
        return f"{kind}_{block[1]}.blocks.{block[2] or 0}.{block[3]}.weight"
    layer, _, part = name.rpartition("_")
    return f"{kind}_{layer}.{part}"


def expected_shapes(config: FuserConfig) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of each tensor of one projector file."""
    shapes = entry_shapes(config)
    named = {official_name(kind, name): shape for kind in KINDS for name, shape in shapes.items()}
    return {**named, TEMPERATURE: ()}


def split_entries(found: Mapping[str, Tensor], config: FuserConfig) -> dict[str, list[Tensor]]:
    """Returns one projector's tensors under our names, K before V; the temperature serves both."""
    named = {name: [found[official_name(kind, name)] for kind in KINDS] for name in entry_shapes(config)}
    return {**named, TEMPERATURE: [found[TEMPERATURE]]}


def projector_json(fuser: Fuser) -> dict[str, Any]:
    """Returns what ``projector_{i}.json`` holds for any layer of the fuser."""
    arguments = {theirs: getattr(fuser.config, ours) for theirs, ours in ARGUMENTS.items()}
    dtype = {"__type__": "torch.dtype", "value": str(fuser.gate_logit.dtype).removeprefix("torch.")}
    return {"class": PROJECTOR_CLASS, "init_args": {**arguments, "dtype": dtype}}


class _Link(NamedTuple):
    receiver_layer: int
    sharer_layer: int
    projector: int


def load_official(folder: Path) -> Fuser:
    """Loads an official checkpoint, in eval mode on the CPU.

    Raises:
        UserError: Names the file that is missing, damaged, hostile or different from the others.
    """
    links = _read_links(folder)
    layer_map = tuple((link.receiver_layer, link.sharer_layer) for link in links)
    configs = [_read_config(folder, link, layer_map) for link in links]
    for link, config in zip(links, configs, strict=True):
        _check_same(folder, link, config, configs[0])
    used = {f"projector_{link.projector}.pt" for link in links}
    if spare := sorted(path.name for path in folder.glob("projector_*.pt") if path.name not in used):
        raise bad_file(folder / MAP_FILE, f"it does not name {spare[0]}, so a part of the fuser would be left over")
    return _stacked(folder, links, configs[0])


def _read_links(folder: Path) -> list[_Link]:
    path = file_inside(folder, MAP_FILE)
    try:
        sharers = next(iter(PROJECTOR_MAP.validate_json(read_small(path), strict=True).values()))
    except ValidationError as error:
        raise bad_file(path, first_problem(error)) from error
    links = []
    for layer, sources in next(iter(sharers.values())).items():
        if len(sources) != 1:
            raise bad_file(path, f"receiver layer {layer} has {len(sources)} projectors, exactly 1 is supported")
        links.append(_Link(int(layer), *sources[0]))
    if not links:
        raise bad_file(path, "it maps no layer")
    return sorted(links)


def _read_config(folder: Path, link: _Link, layer_map: tuple[tuple[int, int], ...]) -> FuserConfig:
    path = file_inside(folder, f"projector_{link.projector}.json")
    back = {ours: theirs for theirs, ours in ARGUMENTS.items()}
    try:
        arguments = Projector.model_validate_json(read_small(path)).init_args
        DTypeMarker.model_validate(arguments.pop("dtype", {"__type__": "torch.dtype", "value": "float32"}))
        unknown = [name for name in arguments if name not in ARGUMENTS]
        if unknown:
            raise bad_file(path, f"init argument {unknown[0]!r} is not known")
        complete = {**ARGUMENT_DEFAULTS, **arguments}
        return FuserConfig(layer_map=layer_map, **{ARGUMENTS[name]: value for name, value in complete.items()})
    except ValidationError as error:
        raise bad_file(path, first_problem(error, back)) from error


def _check_same(folder: Path, link: _Link, config: FuserConfig, first: FuserConfig) -> None:
    for theirs, ours in ARGUMENTS.items():
        have, want = getattr(config, ours), getattr(first, ours)
        if have != want:
            raise UserError(
                f"Checkpoint {folder}: receiver layer {link.receiver_layer} has {theirs} {have}, the first one {want}; "
                "all layers of a fuser must share their shapes, so this checkpoint cannot be loaded."
            )


def _stacked(folder: Path, links: list[_Link], config: FuserConfig) -> Fuser:
    with torch.device("meta"):
        fuser = Fuser(config)
    expected = expected_shapes(config)
    state: dict[str, Tensor] = {}
    for position, link in enumerate(links):
        path = file_inside(folder, f"projector_{link.projector}.pt")
        for name, values in split_entries(read_tensors(path, expected), config).items():
            if name not in state:
                state[name] = torch.empty(len(values) * len(links), *values[0].shape, dtype=values[0].dtype)
            if state[name].dtype != values[0].dtype:
                raise bad_file(path, f"its dtype is {values[0].dtype}, that of other layers {state[name].dtype}")
            for kind, value in enumerate(values):
                state[name][kind * len(links) + position] = value
    fuser.load_state_dict(state, assign=True)
    return fuser.eval()


def save_official(fuser: Fuser, folder: Path) -> None:
    """Writes the original format; the map of projectors comes last, so an unfinished folder cannot be loaded.

    Raises:
        UserError: If the folder cannot be written.
        RunError: If the disk is full.
    """
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MAP_FILE).unlink(missing_ok=True)
    for position in range(fuser.layers):
        buffer = io.BytesIO()
        torch.save(_projector_state(fuser, position), buffer)
        write_atomic(folder / f"projector_{position}.pt", buffer.getvalue())
        write_atomic(folder / f"projector_{position}.json", json.dumps(projector_json(fuser), indent=2))
    layers = {str(ours): [[theirs, position]] for position, (ours, theirs) in enumerate(fuser.config.layer_map)}
    write_atomic(folder / MAP_FILE, json.dumps({"0": {"1": layers}}, indent=2))


def _projector_state(fuser: Fuser, position: int) -> dict[str, Tensor]:
    """Returns copies, because ``torch.save`` would write the whole stack behind each view."""
    rows = [kind * fuser.layers + position for kind in range(len(KINDS))]
    state = {
        official_name(kind, name): fuser.get_parameter(name)[row].detach().cpu().clone()
        for name in entry_shapes(fuser.config)
        for kind, row in zip(KINDS, rows, strict=True)
    }
    return {**state, TEMPERATURE: fuser.gate_temperature[position].cpu().clone()}
