"""A loaded language model, the shape of its KV-cache, and the devices that its layers are on.

A model larger than one device is spread layer by layer in one process or split over several processes. Guarantees that
placement affects speed and memory alone: prompts, fusion and decoding are the same, and in exact arithmetic so are the
answers.

On a CPU in bfloat16 the matrix library reads weights at half the speed when a single row comes as a matrix, which
decoding at batch 1 does all the time. Linear layers therefore multiply such a row as a vector, with the same weights
under the same names, so numbers agree up to rounding.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.models.reference import Reference

M = TypeVar("M", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Together:
    """What a model reads in one call with the numbers that it has when each is read alone; see `harness.self_check`.

    Attributes:
        padded: rows of different lengths.
        branched: several options of one prompt, side by side.
        factors_change: length from which on the model takes other RoPE factors, for the whole batch; None for none.
        checked: how that is known; "" for a model that was not checked.
    """

    padded: bool = True
    branched: bool = True
    factors_change: int | None = None
    checked: str = ""


@dataclass(frozen=True, eq=False)
class LM:
    """A causal language model with its tokenizer, ready for inference.

    `eq=False`: two loads of one checkpoint are two models.

    Attributes:
        notes: which files were read, and what was used where they say nothing or something unusable, by subject.
    """

    model: Any
    tokenizer: Any
    reference: Reference
    device: torch.device
    dtype: torch.dtype
    stop_ids: frozenset[int]
    pad_id: int
    max_length: int
    cache_argument: str = field(default="cache")
    notes: Mapping[str, str] = field(default_factory=dict)
    together: Together = field(default=Together())

    @property
    def config(self) -> Any:
        """The text part of the model's configuration."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of decoder layers, each with one K and one V."""
        return int(self.config.num_hidden_layers)

    @property
    def window(self) -> int | None:
        """Sliding-window width in tokens, where the model's own code makes windows; a config alone may say anything."""
        code = vars(sys.modules[type(self.model.base_model).__module__])
        slides = "sliding_attention" in (getattr(self.config, "layer_types", None) or ("sliding_attention",))
        makes_windows = any(name in code for name in ("create_sliding_window_causal_mask", "create_masks_for_generate"))
        return getattr(self.config, "sliding_window", None) if makes_windows and slides else None

    @property
    def spread(self) -> bool:
        """Whether layers may lie on different devices, or are loaded when they are needed."""
        return getattr(self.model, "hf_device_map", None) is not None


@functools.cache
def cache_argument(architecture: Any) -> str:
    """Name of the forward argument that carries the KV-cache: it was renamed within transformers 5."""
    return "cache" if "cache" in inspect.signature(architecture.forward).parameters else "past_key_values"


class RowLinear(nn.Linear):
    """A linear layer with a way of its own for one row."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """Returns `[..., out_features]` of `[..., in_features]`."""
        if input.numel() != self.in_features:
            return super().forward(input)
        row = input.reshape(-1)
        product = torch.mv(self.weight, row) if self.bias is None else torch.addmv(self.bias, self.weight, row)
        return product.view(*input.shape[:-1], self.out_features)


def multiply_rows_as_vectors(model: nn.Module) -> None:
    """Puts a `RowLinear` in place of every plain linear layer on a CPU; a spread or split model stays as it is.

    The new layers hold the same parameters; the layers that they replace are left as they were.
    """
    if getattr(model, "hf_device_map", None) is not None or getattr(model, "_tp_size", None):
        return
    _replace(model, nn.Linear, RowLinear)


@contextmanager
def as_the_library_has_it(model: nn.Module) -> Iterator[None]:
    """Puts plain linear layers in their places for the time of the block, so that a library is timed unmodified."""
    _replace(model, RowLinear, nn.Linear)
    try:
        yield
    finally:
        _replace(model, nn.Linear, RowLinear)


def with_own_modules(model: M) -> M:
    """Returns a copy of a model over the same weights: what is done to its modules does not reach the original."""
    kept: dict[int, object] = {id(buffer): buffer for buffer in model.buffers()}
    kept |= {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, kept)


def _replace(model: nn.Module, present: type[nn.Linear], wanted: type[nn.Linear]) -> None:
    made: dict[int, nn.Module] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if path and type(layer) is present and layer.weight.device.type == "cpu":
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent).register_module(name, made.setdefault(id(layer), _twin(layer, wanted)))


def _twin(layer: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    """Returns a layer of another class that shares parameters, hooks and settings."""
    made = kind.__new__(kind)
    made.__dict__.update(layer.__dict__)
    return made


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
    if len(found) > 1 and not devices_by_module(model):
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


def devices_by_module(model: Any) -> dict[str, str]:
    """Module -> device of a model that is spread; empty for one device."""
    found = getattr(model, "hf_device_map", None) or {}
    return {module: f"cuda:{place}" if isinstance(place, int) else str(place) for module, place in found.items()}


@dataclass(frozen=True)
class KVShape:
    """Layers, KV heads and width of a head of one model's cache."""

    layers: int
    heads: int
    head_dim: int


def kv_shape(config: Any) -> KVShape:
    """Reads the shape from a transformers config; of a multimodal one, from its text part.

    Raises:
        UserError: If the config does not say.
    """
    text = getattr(config, "text_config", None) or config
    # Where a config lets its layers differ, only a layer's own tells; that they are of one shape is checked at load.
    layer = text.per_layer_config[0] if getattr(text, "is_heterogeneous", False) else text
    heads = _number(layer, "num_attention_heads")
    kv_heads = getattr(layer, "num_key_value_heads", None) or heads
    head_dim = getattr(layer, "head_dim", None) or _number(layer, "hidden_size") // heads
    return KVShape(_number(text, "num_hidden_layers"), int(kv_heads), int(head_dim))


def _number(config: Any, name: str) -> int:
    found = getattr(config, name, None)
    if not isinstance(found, int) or found < 1:
        raise UserError(f"The model's config has {name} = {found!r}; a fuser needs a positive number there.")
    return found
