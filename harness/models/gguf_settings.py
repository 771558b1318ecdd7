"""The keys of a GGUF file: applied to the configuration, or refused by name.

Every key and tensor is listed before a model is made of it. A key that describes the model is in the configuration,
written into it, or refused; among them are those of rotary position embeddings: base, rotated width, scaling, and
factors for each frequency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.models.checkpoint import UnfitCheckpoint

# Lists of one entry a token: the tokenizer reads them from the file itself.
_LISTS = ("tokens", "merges", "scores", "token_type", "precompiled_charsmap")

_VOCABULARY = {f"tokenizer.ggml.{name}" for name in _LISTS}


@dataclass(frozen=True, eq=False)
class GgufFile:
    """What a file holds.

    Attributes:
        path: the file.
        keys: every key with its value, those of the vocabulary with an empty one.
        tensors: every tensor of the file by its name, as the gguf package reads it.
    """

    path: Path
    keys: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture; it begins the keys that describe the model."""
        return str(self.keys.get("general.architecture"))

    def of_model(self, name: str, default: Any = None) -> Any:
        """Value of a key that describes the model, without the architecture's name before it."""
        return self.keys.get(f"{self.architecture}.{name}", default)

    def of_tokenizer(self, name: str, default: Any = None) -> Any:
        """Value of a key that describes the tokenizer."""
        return self.keys.get(f"tokenizer.ggml.{name}", default)

    def values(self, tensor: str) -> list[float]:
        """The numbers of a small tensor."""
        return [float(value) for value in self.tensors[tensor].data.reshape(-1)]


def open_gguf(path: Path) -> GgufFile:
    """Reads keys and tensor names.

    Raises:
        UnfitCheckpoint: the file is damaged, one part of several, or holds something else than a model.
    """
    reader = _reader(path)
    keys = {name: None if name in _VOCABULARY else field.contents() for name, field in reader.fields.items()}
    if (parts := int(keys.get("split.count") or 1)) > 1:
        raise UnfitCheckpoint(f"it is one of {parts} parts (split.count); join them with llama-gguf-split --merge")
    if (kind := keys.get("general.type", "model")) != "model":
        raise UnfitCheckpoint(f"it holds no model but {kind!r} (general.type)")
    return GgufFile(path, keys, {tensor.name: tensor for tensor in reader.tensors})


def _reader(path: Path) -> Any:
    import gguf

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UnfitCheckpoint("it is no GGUF file: its first four bytes are not GGUF; give a file of that format")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the reader checks nothing, so that a cut file ends in any
        version = f" ({error})" if "version" in str(error) else ""
        raise UnfitCheckpoint(f"it is cut short or damaged{version}; fetch or convert it again") from error


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


# Read by transformers; what it made of them has to agree with the file. Several names: that of the architecture counts.
_AGREES: dict[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    "vocab_size": ("vocab_size",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "use_parallel_residual": ("use_parallel_residual",),
}

# Not read by transformers; written into the configuration.
_WRITTEN: dict[str, tuple[str, ...]] = {
    "attention.key_length": ("head_dim",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}

_SAYS_NOTHING = {"tensor_data_layout", "pooling_type", "attention.causal"}

_ELSEWHERE = {"block_count", "attention.value_length", "attention.scale", "attention.sliding_window"}

_ELSEWHERE |= {"attention.sliding_window_pattern", "nextn_predict_layers"}

# What transformers' reader of an architecture takes beyond the common keys.
_STATE_SPACE = {f"ssm.{name}" for name in ("conv_kernel", "state_size", "time_step_rank", "inner_size", "group_count")}

_QWEN35 = {*_STATE_SPACE, "full_attention_interval", "rope.dimension_sections"}

_OF_ARCHITECTURE: dict[str, set[str]] = {
    "qwen35": _QWEN35,
    "qwen35moe": _QWEN35,
    "lfm2": {"shortconv.l_cache"},
    "mamba": _STATE_SPACE,
    "minimax-m2": {"expert_gating_func"},
}

_ALL_LAYERS_SLIDE = {"phi3", "mistral", "starcoder2"}

_SOME_LAYERS_SLIDE = {"gemma2", "gemma3_text", "gpt_oss"}

_SCALED_QUERIES = {"gemma2": {26, 42, 46}, "gemma3_text": {18, 26, 34, 48, 62}}  # depths of the published models

_WIDTH_OVER_HEADS = {46, 62}  # of the 27B models, which scale by another number than the head's width

_PUBLISHED_HEAD = {256, 128}


def apply_settings(config: Any, file: GgufFile) -> dict[str, str]:
    """Makes a configuration say what the file says.

    Args:
        config: what transformers made of the file; changed in place.
        file: the file.

    Returns:
        What was applied, and what was used where the file says nothing, for the record.

    Raises:
        UnfitCheckpoint: names the key that cannot be applied.
    """
    for key, names in _WRITTEN.items():
        if (value := _one(file, key)) is not None:
            _write(config, file, key, names, value)
    for key, names in _AGREES.items():
        if (value := _one(file, key)) is not None:
            _check_agrees(config, file, key, names, value)
    _check_layers(config, file)
    return _sliding(config, file) | _query_scale(config, file) | apply_positions(config, file)


def check_keys(file: GgufFile) -> None:
    """Checks that every key which describes the model is one that is applied.

    Raises:
        UnfitCheckpoint: names the key that is not.
    """
    known = {*_AGREES, *_WRITTEN, *_SAYS_NOTHING, *_ELSEWHERE, *KEYS}
    known |= _OF_ARCHITECTURE.get(file.architecture, set())
    prefix = f"{file.architecture}."
    for key in file.keys:
        if key.startswith(prefix) and key.removeprefix(prefix) not in known:
            raise UnfitCheckpoint(f"its key {key} is {_short(file.keys[key])}, which is not applied here")
    if file.of_model("attention.causal", True) is not True:
        raise UnfitCheckpoint(f"its key {prefix}attention.causal is false; only causal language models are loaded")
    for key in (*_AGREES, *_WRITTEN, "attention.value_length"):
        _one(file, key)


def _one(file: GgufFile, key: str) -> Any:
    """A key's value; of a list with an entry for each layer the one that all layers with this part share."""
    value = file.of_model(key)
    if not isinstance(value, list):
        return value
    entries = set(value) - {0}
    if len(entries) != 1:
        raise UnfitCheckpoint(f"its key {file.architecture}.{key} differs from layer to layer ({_short(value)})")
    return entries.pop()


def _write(config: Any, file: GgufFile, key: str, names: tuple[str, ...], value: Any) -> None:
    name = next((name for name in names if hasattr(config, name)), None)
    if name is not None:
        setattr(config, name, value)
    elif key != "attention.key_length" or value * config.num_attention_heads != config.hidden_size:
        raise UnfitCheckpoint(f"its key {file.architecture}.{key} is {value}, for which the model has no setting")


def _check_agrees(config: Any, file: GgufFile, key: str, names: tuple[str, ...], value: Any) -> None:
    present = [getattr(config, name) for name in names if hasattr(config, name)]
    if present and not any(one is not None and math.isclose(one, value, rel_tol=1e-6) for one in present):
        raise UnfitCheckpoint(f"its key {file.architecture}.{key} is {value}, but the model has {present[0]}")


def _check_layers(config: Any, file: GgufFile) -> None:
    blocks = int(file.of_model("block_count", config.num_hidden_layers)) - int(file.of_model("nextn_predict_layers", 0))
    if blocks != config.num_hidden_layers:
        raise UnfitCheckpoint(f"it has {blocks} layers, but the model was built with {config.num_hidden_layers}")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if (value := _one(file, "attention.value_length")) not in (None, width):
        raise UnfitCheckpoint(f"its key {file.architecture}.attention.value_length is {value}, that of keys is {width}")


def _sliding(config: Any, file: GgufFile) -> dict[str, str]:
    window, kind = file.of_model("attention.sliding_window"), config.model_type
    pattern = file.of_model("attention.sliding_window_pattern")
    narrow = bool(window) and window < int(file.of_model("context_length", 2**31))
    if kind in _SOME_LAYERS_SLIDE:
        if window is None:
            raise UnfitCheckpoint(f"its key {file.architecture}.attention.sliding_window is missing")
        config.sliding_window = window
        if pattern is not None:
            config.layer_types = _layer_types(pattern, config.num_hidden_layers)
        slides = config.layer_types.count("sliding_attention")
        return {"sliding_window": f"{window} tokens in {slides} of {config.num_hidden_layers} layers"}
    if pattern is not None or (narrow and kind not in _ALL_LAYERS_SLIDE):
        name = "attention.sliding_window" if pattern is None else "attention.sliding_window_pattern"
        raise UnfitCheckpoint(f"its key {file.architecture}.{name} asks for a window, which {kind} models do not have")
    if kind in _ALL_LAYERS_SLIDE:
        config.sliding_window = window if narrow else None
        return {"sliding_window": f"{window} tokens in all layers" if narrow else "none"}
    return {}


def _layer_types(pattern: Any, layers: int) -> list[str]:
    """One kind a layer: a list says which layers slide, a number that each so-many-th does not."""
    slides = pattern if isinstance(pattern, list) else [(i + 1) % pattern != 0 for i in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in slides]


def _query_scale(config: Any, file: GgufFile) -> dict[str, str]:
    """By what Gemma divides its queries: the files do not say, llama.cpp goes by the number of layers."""
    scale = file.of_model("attention.scale")
    if config.model_type not in _SCALED_QUERIES:
        if scale is not None:
            raise UnfitCheckpoint(f"its key {file.architecture}.attention.scale is {scale}, which is not applied here")
        return {}
    depth, head = config.num_hidden_layers, config.head_dim
    if scale:
        config.query_pre_attn_scalar = round(1 / float(scale) ** 2)
        if not math.isclose(config.query_pre_attn_scalar**-0.5, scale, rel_tol=1e-6):
            raise UnfitCheckpoint(f"its key {file.architecture}.attention.scale is {scale}, not 1/sqrt(n) of a whole n")
        return {"query_scale": f"{scale} (attention.scale)"}
    wide = depth in _WIDTH_OVER_HEADS
    if depth not in _SCALED_QUERIES[config.model_type] or (not wide and head not in _PUBLISHED_HEAD):
        raise UnfitCheckpoint(
            f"it has no {file.architecture}.attention.scale, and the query scale of a {file.architecture} model with "
            f"{depth} layers and heads of {head} is not known; give the folder that the file was converted from"
        )
    config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if wide else head
    return {"query_scale": f"1/sqrt({config.query_pre_attn_scalar}), by the number of layers; the file does not say"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
