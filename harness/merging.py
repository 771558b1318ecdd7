"""A low-rank adapter's folder, as peft writes it, merged into the model that it was trained in.

Guarantees that what answers afterwards is a plain model: no adapter code runs, and a merged model is loaded, spread
and timed as any other. Weights are read as data (safetensors); a folder that does not fit the model is refused.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from harness.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Reference of the model that an adapter was trained in.

    Raises:
        UserError: if the configuration cannot be read, names no model or is of another kind than LoRA.
    """
    kind, name, revision = map(_config(folder).get, ("peft_type", "base_model_name_or_path", "revision"))
    if kind != "LORA":
        raise UserError(f"Adapter {str(folder)!r} is of the kind {kind!r}; only LORA adapters can be merged.")
    if not isinstance(name, str) or not name:
        raise UserError(f"Adapter {str(folder)!r}: {CONFIG} names no base model; write base_model_name_or_path there.")
    return name if revision is None or Path(name).exists() else f"{name}@{revision}"


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"Adapter {str(folder)!r}: {CONFIG} cannot be read ({error}); restore the file or train again."
        ) from error
    return found


def parameters_of(folder: Path) -> int:
    """How many numbers an adapter consists of.

    Raises:
        UserError: if its weights cannot be read.
    """
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - a file, no dict
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def merged(model: Any, folder: Path) -> Any:
    """Adds an adapter's products to a model's weights, in place, and returns the model.

    Raises:
        UserError: if peft is missing, or the adapter is damaged or was made for another model.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise UserError(f"Adapter {str(folder)!r} needs peft; install c2c-harness[train].") from error
    _check_whole(model, folder)
    _config(folder)
    found = _weights(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells of names and versions that are of no concern here
            config = LoraConfig.from_pretrained(str(folder))
            config.megatron_config = None  # would import a module of the folder's choice
            peft = get_peft_model(model, config)
        _check_fits(found, get_peft_model_state_dict(peft, save_embedding_layers=False), folder)
        set_peft_model_state_dict(peft, found)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Adapter {str(folder)!r} does not fit its base model: {reason}") from error
    return peft.merge_and_unload().requires_grad_(False)


def _check_whole(model: Any, folder: Path) -> None:
    if any(value.is_meta or isinstance(value, DTensor) for value in model.parameters()):
        raise UserError(
            f"Adapter {str(folder)!r} cannot be merged into a model whose weights are split or offloaded; "
            "give it a device that holds the whole model."
        )


def _weights(folder: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    if wrong := next((name for name, value in found.items() if not torch.isfinite(value).all()), None):
        raise UserError(f"Adapter {str(folder)!r} holds numbers that are not finite, the first in {wrong!r}.")
    return found


def _check_fits(found: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    for name in sorted(found.keys() | expected.keys()):
        theirs, ours = found.get(name), expected.get(name)
        if theirs is None or ours is None or theirs.shape != ours.shape:
            raise UserError(
                f"Adapter {str(folder)!r} was made for another model: {name!r} is {_shape(theirs)} in the adapter and "
                f"{_shape(ours)} in the base model; give the model that it was trained in."
            )


def _shape(value: Tensor | None) -> str:
    return "absent" if value is None else "x".join(map(str, value.shape))


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(f"Adapter {str(folder)!r}: {WEIGHTS} cannot be read ({error}); only safetensors are.")
