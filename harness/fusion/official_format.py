"""Names, shapes and JSON of the original C2C trainer's projector files.

Guarantees that both directions use one table of names, so that reading and writing cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import Tensor

from harness.fusion.config import FuserConfig
from harness.fusion.fuser import Fuser
from harness.fusion.reading import TEMPERATURE
from harness.fusion.stack import entry_shapes

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
