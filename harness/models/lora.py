"""A low-rank adapter's folder, as peft writes it, merged into the model that it was trained in.

Guarantees that what answers afterwards is a plain model: no adapter code runs, and a merged model is loaded, spread
and timed as any other. Weights are read as data (safetensors); a folder that does not fit the model is refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from harness.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Fields of peft's configuration that name things, or act in training alone.
_WITHOUT_EFFECT = {"peft_type", "peft_version", "auto_mapping", "inference_mode", "runtime_config", "megatron_config"}

_WITHOUT_EFFECT |= {"megatron_core", "eva_config", "loftq_config", "corda_config", "lora_ga_config"}

_WITHOUT_EFFECT |= {"qalora_group_size"}

_MERGED = _WITHOUT_EFFECT | {"task_type", "base_model_name_or_path", "revision", "r", "target_modules", "lora_alpha"}

_MERGED |= {"exclude_modules", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save", "use_dora"}

_MERGED |= {"init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias"}

_MERGED |= {"trainable_token_indices", "target_parameters", "ensure_weight_tying"}

# Ways to start an adapter that leave the base model as it is, or change it in a way that peft repeats.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "olora", "pissa")


# Where peft keeps the matrix of a module that it wraps.
_WRAPPED = ("", ".base_layer", ".original_module", ".token_adapter.base_layer")

_SAVED_TWICE = ".modules_to_save.weight"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
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


def merge_adapter(model: Any, folder: Path) -> Any:
    """Adds an adapter's products to a model's weights, in place, and returns the model.

    An adapter that carries its own embedding rows, for a vocabulary that grew or was cut, resizes the model's.

    Raises:
        UserError: if peft is missing, or the adapter is damaged, was made for another model or asks for something
            that cannot be merged.
    """
    try:
        from peft import get_peft_model
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise UserError(f"Adapter {str(folder)!r} needs peft; install c2c-harness[train].") from error
    _check_whole(model, folder)
    config, found = _lora_config(folder), _weights(folder)
    carried = _carried_embeddings(model, found)
    try:
        _resize(model, carried, folder)
        peft = get_peft_model(model, config)
        expected = get_peft_model_state_dict(peft, save_embedding_layers=False)
        own = {name: value for name, value in peft.state_dict().items() if name in carried}
        _check_fits(found, expected | own, folder)
        unread = set_peft_model_state_dict(peft, found).unexpected_keys
        _prepare_merge(peft)
        whole = peft.merge_and_unload().requires_grad_(False)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Adapter {str(folder)!r} does not fit its base model: {reason}") from error
    if unread:
        raise UserError(f"Adapter {str(folder)!r}: nothing reads its tensor {unread[0]!r}; merge it with peft itself.")
    return _said_untied(whole)


def _lora_config(folder: Path) -> Any:
    from peft import LoraConfig

    written, defaults = _config(folder), LoraConfig()
    for name, value in written.items():
        if name not in _MERGED and value not in (None, False, [], {}, getattr(defaults, name, None)):
            raise UserError(
                f"Adapter {str(folder)!r} sets {name}, which cannot be merged into the weights; merge it with peft "
                "itself and give the folder of the merged model."
            )
    start = written.get("init_lora_weights", True)
    if start not in _STARTS:
        raise UserError(
            f"Adapter {str(folder)!r} was started by init_lora_weights {start!r}, which changes the base model in a "
            "way that cannot be repeated; convert it with peft to an adapter of the unchanged base model."
        )
    used = _MERGED - _WITHOUT_EFFECT
    kept = {name: value for name, value in written.items() if name in used and value is not None}
    return LoraConfig(**kept, inference_mode=True)


def _embedding_names(model: Any) -> list[str]:
    """Names that peft gives to the modules of the input embedding and of the output matrix."""
    ends = [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]
    return [f"base_model.model.{name}" for name, module in model.named_modules() if any(module is end for end in ends)]


def _carried_embeddings(model: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole embedding matrices among an adapter's tensors: peft saves them where it adapts or resizes them."""
    names = {f"{name}{end}.weight" for name in _embedding_names(model) for end in _WRAPPED}
    return {name: value for name, value in found.items() if name in names}


def _resize(model: Any, carried: dict[str, Tensor], folder: Path) -> None:
    rows, have = {value.shape[0] for value in carried.values()}, model.get_input_embeddings().weight.shape[0]
    if rows <= {have}:
        return
    if len(rows) > 1:
        raise UserError(f"Adapter {str(folder)!r} holds embeddings of {sorted(rows)} rows; they have to be equal.")
    count = rows.pop()
    tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
    absent = [name for name in _embedding_names(model) if not any(one.startswith(f"{name}.") for one in carried)]
    if count > have and absent and not tied:
        raise UserError(
            f"Adapter {str(folder)!r} grew the vocabulary from {have} to {count} rows but holds no new rows of "
            f"{absent[0].removeprefix('base_model.model.')!r}; save it again with save_embedding_layers=True."
        )
    model.resize_token_embeddings(count, mean_resizing=False)


def _prepare_merge(peft: Any) -> None:
    """Makes room for what a merge adds: biases where there are none, and an embedding apart from what it is tied to."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in peft.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        base = layer.get_base_layer()
        if any(layer.lora_bias.values()) and base.bias is None:
            weight = base.weight
            base.bias = torch.nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)
    ends = {id(end.weight) for end in map(_base_layer, _ends(peft)) if hasattr(end, "weight")}
    if len(ends) == 1:  # tied: a product on one end is no product on the other
        for layer in layers:
            base = layer.get_base_layer()
            if id(getattr(base, "weight", None)) in ends:
                base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)


def _ends(model: Any) -> list[Any]:
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [end for end in (whole.get_input_embeddings(), whole.get_output_embeddings()) if end is not None]


def _base_layer(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _said_untied(model: Any) -> Any:
    """Takes tying out of the configuration of a model whose ends a merge has set apart."""
    config, ends = model.config.get_text_config(), _ends(model)
    if config.tie_word_embeddings and len({id(end.weight) for end in ends}) > 1:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
    return model


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
    for name in [name for name in found if name.endswith(_SAVED_TWICE)]:
        if torch.equal(found[name], found.get(name.replace(_SAVED_TWICE, ".weight"), found[name])):
            found[name.replace(_SAVED_TWICE, ".weight")] = found.pop(name)
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
