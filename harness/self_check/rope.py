"""RoPE variants whose factors depend on the longest sequence of a batch."""

from __future__ import annotations

from typing import Any

_BY_LENGTH = ("dynamic", "longrope")


def factors_change(model: Any) -> int | None:
    """Length in tokens from which on a model takes other RoPE factors for the whole batch; None where it never does.

    Asked of the modules that make the factors, by the rule of transformers' own `dynamic_rope_update`.
    """
    lengths = [_length(module) for module in model.modules() if hasattr(module, "rope_type")]
    return min((length for length in lengths if length is not None), default=None)


def _length(module: Any) -> int | None:
    kinds = module.rope_type if isinstance(module.rope_type, dict) else {None: module.rope_type}
    found = [_of_kind(module, layer, str(kind)) for layer, kind in kinds.items() if _by_length(str(kind))]
    return min(found, default=None)


def _by_length(kind: str) -> bool:
    return any(name in kind for name in _BY_LENGTH)


def _of_kind(module: Any, layer: str | None, kind: str) -> int:
    if "dynamic" in kind:
        return int(module.original_max_seq_len)
    rope = module.config.rope_parameters
    return int((rope if layer is None else rope[layer])["original_max_position_embeddings"])
