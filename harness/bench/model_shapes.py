"""Shapes of known models and pairs, so that a pair can be timed without its weights. Imports nothing heavy.

The figures are those of the models' published configurations; a folder with a ``config.json`` is accepted wherever a
name is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown


@dataclass(frozen=True)
class ModelShape:
    """A model without its weights.

    Attributes:
        name: as it was asked for.
        architecture: transformers' ``model_type``; empty where `folder` says.
        settings: what its configuration says about shapes.
        folder: of a local configuration.
    """

    name: str
    architecture: str = ""
    settings: Mapping[str, Any] | None = None
    folder: Path | None = None


def _settings(sizes: str, *, vocabulary: int, head_dim: int, tied: bool = True) -> dict[str, Any]:
    """Reads "hidden inner layers heads kv_heads"."""
    hidden, inner, layers, heads, kv_heads = map(int, sizes.split())
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
    }


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-a": ("qwen3", _settings("32 64 2 4 2", vocabulary=512, head_dim=8)),
    "tiny-b": ("qwen2", _settings("24 48 3 2 1", vocabulary=512, head_dim=12)),
    "tiny-c": ("llama", _settings("32 48 2 4 2", vocabulary=400, head_dim=8)),
    "qwen3-0.6b": ("qwen3", _settings("1024 3072 28 16 8", vocabulary=151936, head_dim=128)),
    "qwen3-4b": ("qwen3", _settings("2560 9728 36 32 8", vocabulary=151936, head_dim=128)),
    "qwen3-8b": ("qwen3", _settings("4096 12288 36 32 8", vocabulary=151936, head_dim=128, tied=False)),
    "qwen2.5-0.5b": ("qwen2", _settings("896 4864 24 14 2", vocabulary=151936, head_dim=64)),
    "qwen2.5-7b": ("qwen2", _settings("3584 18944 28 28 4", vocabulary=152064, head_dim=128, tied=False)),
    "llama-3.2-1b": ("llama", _settings("2048 8192 16 32 8", vocabulary=128256, head_dim=64)),
}

PAIRS = {"tiny": "tiny-a+tiny-b"}

EXAMPLES = (
    "tiny",
    "qwen3-0.6b+qwen2.5-0.5b",
    "qwen3-0.6b+llama-3.2-1b",
    "qwen3-0.6b+qwen3-4b",
    "qwen3-8b+qwen2.5-7b",
)


def read_pair(text: str) -> tuple[ModelShape, ModelShape]:
    """Reads ``receiver+sharer``, each a name of `MODELS` or a folder with a configuration, or a name of `PAIRS`.

    Raises:
        UserError: it is neither.
    """
    names = PAIRS.get(text, text).split("+")
    if len(names) != 2:
        raise UserError(
            f"Shapes {text!r}: give a receiver and a sharer joined by '+', such as {EXAMPLES[1]!r}; known are "
            f"{', '.join([*PAIRS, *MODELS])}."
        )
    receiver, sharer = map(_read_model, names)
    return receiver, sharer


def _read_model(text: str) -> ModelShape:
    if text in MODELS:
        return ModelShape(text, *MODELS[text])
    folder = Path(text).expanduser()
    if (folder / "config.json").is_file():
        return ModelShape(text, folder=folder)
    if folder.is_dir() or "/" in text:
        raise UserError(
            f"Shapes {text!r}: there is no config.json in that folder; give a model folder or a known name."
        )
    raise unknown("model shape", text, MODELS)


@dataclass(frozen=True)
class FuserWidths:
    """Sizes of the fuser; the defaults are the published checkpoints'."""

    hidden: int = 1024
    intermediate: int = 1024
    layers: int = 3
