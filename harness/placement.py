"""Where a model larger than one device lies: spread layer by layer in one process, or split over several processes.

Guarantees that placement is a matter of speed and memory alone: prompts, fusion and decoding are the same, and in
exact arithmetic so are the answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from harness.errors import UserError
from harness.fusion.shapes import kv_shape

DeviceMap = str | Mapping[str, str | int]


def placed_by(device_map: DeviceMap | None, tensor_parallel: bool) -> dict[str, Any]:
    """Returns what transformers' ``from_pretrained`` is told about placement; nothing for a single device.

    Raises:
        UserError: the processes of this run do not go with what is asked.
    """
    if tensor_parallel:
        return _split()
    if device_map is None:
        return {}
    beside = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if beside > 1:
        raise UserError(
            f"device_map spreads models over the GPUs of this machine, but {beside} processes share them; start one "
            "process a machine, or use --tensor_parallel."
        )
    return {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}


def _split() -> dict[str, Any]:
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        raise UserError(
            "tensor_parallel splits every layer over several processes, but there is only one; start the run with "
            "torchrun --nproc-per-node N, or use --device_map."
        )
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def entry_device(model: Any) -> torch.device:
    """Where a model's inputs enter: a parameter that is only loaded when it is needed does not say."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        place = getattr(one, "execution_device", None)
        if place is not None:
            return torch.device(place)
    first: torch.Tensor = next(model.parameters())
    return first.device


def check_placed(model: Any) -> None:
    """Refuses a model whose layers cannot work where they were put.

    Raises:
        ValueError: a map left a part where nobody moves inputs to, or heads cannot be shared out.
    """
    found = {value.device: name for name, value in model.named_parameters()}
    if len(found) > 1 and not places(model):
        told = ", ".join(f"{name} on {device}" for device, name in found.items())
        raise ValueError(f"device_map leaves out a part of the model ({told}); name every module")
    shards = shards_of(model)
    if shards == 1:
        return
    heads = kv_shape(model.config).heads
    if heads % shards:
        raise ValueError(f"its {heads} KV heads cannot be shared out to {shards} processes; start a divisor of {heads}")


def shards_of(model: Any) -> int:
    """Over how many processes every layer of a model is split."""
    return int(getattr(model, "tp_size", None) or 1)


def shard_group(model: Any) -> Any:
    """The processes over which a model is split, in the order of the heads."""
    return model._device_mesh["tp"].get_group()


def places(model: Any) -> dict[str, str]:
    """Module -> device of a model that is spread; empty for one device."""
    found = getattr(model, "hf_device_map", None) or {}
    return {module: f"cuda:{place}" if isinstance(place, int) else str(place) for module, place in found.items()}
