"""The keys and tensors of a GGUF file, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.weights_check import UnfitCheckpoint

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


def opened(path: Path) -> GgufFile:
    """Reads keys and tensor names.

    Raises:
        UnfitCheckpoint: the file is one part of several, or holds something else than a model.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {name: None if name in _VOCABULARY else field.contents() for name, field in reader.fields.items()}
    if (parts := int(keys.get("split.count") or 1)) > 1:
        raise UnfitCheckpoint(f"it is one of {parts} parts (split.count); join them with llama-gguf-split --merge")
    if (kind := keys.get("general.type", "model")) != "model":
        raise UnfitCheckpoint(f"it holds no model but {kind!r} (general.type)")
    return GgufFile(path, keys, {tensor.name: tensor for tensor in reader.tensors})
