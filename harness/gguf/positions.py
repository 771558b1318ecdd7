"""Rotary position embeddings of a GGUF file: base, rotated width, scaling and factors for each frequency."""

from __future__ import annotations

from typing import Any

import torch

from harness.gguf.file import GgufFile
from harness.weights_check import UnfitCheckpoint

FREQUENCY_FACTORS = "rope_freqs.weight"
_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"
TENSORS = frozenset({FREQUENCY_FACTORS, _SHORT, _LONG})
_KEYS = ("dimension_count", "freq_base", "freq_base_swa", "scale_linear")
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "finetuned", "yarn_beta_fast", "yarn_beta_slow")
_NEUTRAL = {"yarn_ext_factor": (1.0, -1.0), "yarn_attn_factor": (1.0,), "yarn_log_multiplier": (0.0,)}
KEYS = frozenset({*(f"rope.{k}" for k in _KEYS), *(f"rope.scaling.{k}" for k in (*_SCALING, *_NEUTRAL))})
_PARTLY_ROTATED = {"phi3", "stablelm", "nemotron"}
_LOCAL_BASE = 10000.0  # of the sliding layers where a file with two bases names one


def apply_positions(config: Any, file: GgufFile) -> dict[str, str]:
    """Writes a file's position settings into a configuration.

    Returns:
        What was applied, for the record.

    Raises:
        UnfitCheckpoint: names a setting that cannot be applied.
    """
    own = getattr(config, "rope_parameters", None)
    if own is None:
        if used := [key for key in KEYS if file.of_model(key) is not None and key != "rope.dimension_count"]:
            raise UnfitCheckpoint(f"its key {file.architecture}.{used[0]} is about rotary positions, which it has not")
        return {}
    scaling = _scaling(config, file)
    nested = "full_attention" in own
    outer = dict(own["full_attention"] if nested else own)
    theta = file.of_model("rope.freq_base", outer.get("rope_theta"))
    part = _rotated_part(config, file, outer)
    full = {"rope_theta": float(theta), **part, **scaling}
    if nested:
        local = float(file.of_model("rope.freq_base_swa", _LOCAL_BASE))
        config.rope_parameters = {
            **own,
            "full_attention": full,
            "sliding_attention": {"rope_theta": local, "rope_type": "default"},
        }
    else:
        _refuse_second_base(file, full["rope_theta"])
        extra = {key: value for key, value in outer.items() if key.startswith("mrope")}
        config.rope_parameters = {**extra, **full}
    return {"positions": _wording(full, file)}


def scale_frequencies(model: Any, file: GgufFile) -> None:
    """Divides the rotary frequencies of a loaded model by the factors of the file, where it has any.

    Raises:
        UnfitCheckpoint: the factors do not fit the model.
    """
    if FREQUENCY_FACTORS not in file.tensors:
        return
    factors = torch.tensor(file.values(FREQUENCY_FACTORS))
    buffers = [(name, value) for name, value in model.named_buffers() if name.endswith("inv_freq")]
    if not buffers or any(value.shape != factors.shape for _, value in buffers):
        raise UnfitCheckpoint(f"its tensor {FREQUENCY_FACTORS!r} has {len(factors)} factors, others than the model")
    for _, value in buffers:
        value.div_(factors.to(value.device))


def _scaling(config: Any, file: GgufFile) -> dict[str, Any]:
    for key, neutral in _NEUTRAL.items():
        if (value := file.of_model(f"rope.scaling.{key}")) is not None and value not in neutral:
            raise UnfitCheckpoint(f"its key {file.architecture}.rope.scaling.{key} is {value}, which is not applied")
    if {_SHORT, _LONG} & file.tensors.keys():
        return _longrope(config, file)
    factor = file.of_model("rope.scaling.factor") or file.of_model("rope.scale_linear") or 1.0
    kind = file.of_model("rope.scaling.type", "linear")  # llama.cpp's own default
    known = {"none": _unscaled, "linear": _linear, "yarn": _yarn}
    if kind not in known:
        raise UnfitCheckpoint(f"its key {file.architecture}.rope.scaling.type is {kind!r}; allowed: {', '.join(known)}")
    made = known[kind](config, file, float(factor))
    if FREQUENCY_FACTORS in file.tensors and made["rope_type"] != "default":
        raise UnfitCheckpoint(f"it scales positions twice, by {kind!r} and by the tensor {FREQUENCY_FACTORS!r}")
    return made


def _unscaled(config: Any, file: GgufFile, factor: float) -> dict[str, Any]:
    if (value := file.of_model("rope.scaling.attn_factor", 1.0)) != 1.0:
        raise UnfitCheckpoint(f"its key {file.architecture}.rope.scaling.attn_factor is {value}, which is not applied")
    return {"rope_type": "default"}


def _linear(config: Any, file: GgufFile, factor: float) -> dict[str, Any]:
    plain = _unscaled(config, file, factor)
    return plain if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _yarn(config: Any, file: GgufFile, factor: float) -> dict[str, Any]:
    length = file.of_model("rope.scaling.original_context_length") or config.max_position_embeddings
    made = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": int(length)}
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if (value := file.of_model(f"rope.scaling.{theirs}")) is not None:
            made[ours] = float(value)
    if (scale := file.of_model("rope.scaling.attn_factor")) is not None:
        made["attention_factor"] = float(scale) * (0.1 * torch.log(torch.tensor(factor)).item() + 1.0)
    return made


def _longrope(config: Any, file: GgufFile) -> dict[str, Any]:
    length = file.of_model("rope.scaling.original_context_length")
    if absent := [name for name in (_SHORT, _LONG) if name not in file.tensors]:
        raise UnfitCheckpoint(f"it scales positions by factors, but its tensor {absent[0]!r} is missing")
    if length is None:
        raise UnfitCheckpoint(f"its key {file.architecture}.rope.scaling.original_context_length is missing")
    config.original_max_position_embeddings = int(length)
    made = {
        "rope_type": "longrope",
        "short_factor": file.values(_SHORT),
        "long_factor": file.values(_LONG),
        "original_max_position_embeddings": int(length),
        "factor": config.max_position_embeddings / int(length),
    }
    if (scale := file.of_model("rope.scaling.attn_factor")) is not None:
        made["attention_factor"] = float(scale)
    return made


def _rotated_part(config: Any, file: GgufFile, own: dict[str, Any]) -> dict[str, Any]:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    part = own.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    asked = file.of_model("rope.dimension_count")
    if asked is not None and asked != int(width * part):
        if config.model_type not in _PARTLY_ROTATED:
            raise UnfitCheckpoint(
                f"its key {file.architecture}.rope.dimension_count is {asked}, but the model rotates "
                f"{int(width * part)} of {width} dimensions"
            )
        part = asked / width
    return {} if part == 1.0 and "partial_rotary_factor" not in own else {"partial_rotary_factor": part}


def _refuse_second_base(file: GgufFile, base: float) -> None:
    if file.of_model("rope.freq_base_swa", base) != base:
        raise UnfitCheckpoint(f"its key {file.architecture}.rope.freq_base_swa has no counterpart in the model")


def _wording(full: dict[str, Any], file: GgufFile) -> str:
    shown = {key: value for key, value in full.items() if not isinstance(value, list)}
    more = f", frequencies divided by {FREQUENCY_FACTORS}" if FREQUENCY_FACTORS in file.tensors else ""
    return ", ".join(f"{key} {value}" for key, value in shown.items()) + more
