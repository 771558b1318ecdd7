"""What the frozen models read from each prompt, kept from one epoch to the next.

Exact: the models do not change, and a prompt is read alone whether it is kept or not, so a run that finds its
store gone computes the same bits again. Costs about as many bytes as the two caches; what does not fit is not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from harness.models.lm import LM
from harness.records.files import explaining, write_atomic
from harness.training.objective import Kept

if TYPE_CHECKING:
    from harness.training.dataloader import Lesson

GIB = 2**30


class Store:
    """Prompts' caches by row, in memory or in one file a row.

    Attributes:
        folder: for the files; None keeps everything in memory.
        room_bytes: left.
        hits: how often a row was found.
    """

    def __init__(self, folder: Path | None, limit_gib: float) -> None:
        self.folder, self.room_bytes, self.hits = folder, int(limit_gib * GIB), 0
        self._memory: dict[int, Kept] = {}
        if folder is not None:
            with explaining(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self.room_bytes -= sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def get(self, row: int, make: Callable[[], Kept]) -> Kept:
        """Returns what was kept of a row, or makes and keeps it."""
        found = self._memory.get(row) if self.folder is None else _read(self._file(row))
        if found is not None:
            self.hits += 1
            return found
        made = Kept(*_on_host(make()))
        size = sum(_bytes(value) for value in (*made.parts, made.clean))
        if size <= self.room_bytes:
            self.room_bytes -= size
            self._put(row, made)
        return made

    def _put(self, row: int, made: Kept) -> None:
        if self.folder is None:
            self._memory[row] = made
            return
        named = {"clean": made.clean, **{f"part{i}": part for i, part in enumerate(made.parts)}}
        write_atomic(self._file(row), to_safetensors({name: value.contiguous() for name, value in named.items()}))

    def _file(self, row: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{row}.safetensors"


def store_name(identity: Mapping[str, Any], readers: Sequence[Any]) -> str:
    """Names a store after everything that decides its contents: the data, how it is laid out, and who reads it."""
    data = ("data", "data_revision", "data_config", "data_split", "prompt_of", "max_rows", "max_length", "as_released")
    reading = ("alignment", "fuse_kinds", "dtype", "attention", "device")
    kept = {name: identity[name] for name in (*data, *reading) if name in identity}
    return hashlib.sha256(json.dumps([kept, list(readers)], sort_keys=True).encode()).hexdigest()[:16]


def prompts_sha256(models: Sequence[LM], lessons: Sequence[Lesson]) -> str:
    """Digest of how prompts are written: chat templates by their text, wording and tokenizers by some rows' tokens."""
    templates = [lm.tokenizer.chat_template for lm in models]
    tokens = [[lesson.ids, lesson.fused] for lesson in lessons]
    return hashlib.sha256(json.dumps([templates, tokens], sort_keys=True).encode()).hexdigest()


def weights_sha256(lm: LM) -> str:
    """Digest of a model's frozen weights in memory; the same before and after training, or something is wrong."""
    digest = hashlib.sha256()
    for value in lm.model.state_dict(keep_vars=True).values():
        if not value.requires_grad:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path) -> Kept | None:
    try:
        found = load_file(path)
    except (OSError, SafetensorError):
        return None
    parts = sorted((name for name in found if name != "clean"), key=lambda name: int(name.removeprefix("part")))
    return Kept(tuple(found[name] for name in parts), found["clean"])


def _on_host(made: Kept) -> tuple[tuple[Tensor, ...], Tensor]:
    return tuple(part.cpu() for part in made.parts), made.clean.cpu()


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
