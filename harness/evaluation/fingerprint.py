"""Digests of the weights, fusers, documents and prompts of a run, and the origin of trained weights.

Digests identify what the names of a run stand for. The origin is what the file of trained weights says: seed, steps,
data, recipe. As a file may say anything, only plain numbers and short words are kept, and no name of a folder, which
another machine does not have. The origin never decides how a run computes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.benchmarks.questions import Benchmark
from harness.channels.control_registry import CONTROLS
from harness.channels.engine import DONORS
from harness.config import RunConfig
from harness.evaluation.prompt_record import rendering_identity
from harness.evaluation.setup import Cast
from harness.fusers.checkpoint import HEADER_FILE, read_header
from harness.models.lm import LM, devices_by_module
from harness.models.lora import WEIGHTS, parameters_of
from harness.models.reference import Reference
from harness.records.files import COST_FILE, sha256_files
from harness.records.schema import ModelInfo
from harness.serving.backend import Served

Origin = dict[str, str | int | float | bool]

_PLACES = {"receiver", "sharer", "sharers", "data", "init", "validate_tasks"}

_LONGEST = 100


def of_fuser(folder: Path) -> Origin:
    """Returns what a fuser's header tells; nothing of the original's format, which has none.

    Raises:
        UserError: if the header is damaged.
    """
    return _told(read_header(folder).provenance) | _cost(folder) if (folder / HEADER_FILE).is_file() else {}


def of_adapter(folder: Path) -> Origin:
    """Returns what the header of an adapter's weights tells; nothing of one that was trained elsewhere."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return _told(json.loads((file.metadata() or {}).get("provenance", "{}"))) | _cost(folder)
    except (OSError, SafetensorError, ValueError):
        return {}


def _cost(folder: Path) -> Origin:
    """What a training says that its weights cost; nothing where they come without."""
    with suppress(OSError, ValueError):
        return _told(json.loads((folder / COST_FILE).read_text(encoding="utf-8")))
    return {}


def _told(provenance: object) -> Origin:
    """The recipe's values and those beside it in one level; the steps that were done go before those asked for."""
    outer = provenance if isinstance(provenance, Mapping) else {}
    recipe = outer.get("recipe")
    values: dict[str, Any] = {**(recipe if isinstance(recipe, Mapping) else {}), **outer}
    return {name: value for name, value in values.items() if name not in _PLACES and _plain(value)}


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and not {"/", "\\"} & set(value)
    return isinstance(value, int | float) and math.isfinite(value)


_CONTENT = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}

_BESIDE = ("LICENSE", "NOTICE", "README", "USE_POLICY")  # comes with some copies of a folder and not with others


def model_info(role: str, lm: LM) -> ModelInfo:
    """Describes a loaded model with a digest of its files."""
    model = lm.model
    return ModelInfo(
        role=role,
        reference=lm.reference.text,
        revision=lm.reference.commit,
        base=(lm.reference.base or "") if lm.reference.adapter else "",
        adapter_revision=lm.reference.adapter_commit,
        fingerprint=lm.reference.digest or sha256_files(_files(lm)),
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(lm.dtype).removeprefix("torch."),
        adapter_parameters=parameters_of(Path(lm.reference.adapter)) if lm.reference.adapter else 0,
        training=of_adapter(Path(lm.reference.adapter)) if lm.reference.adapter else {},
        weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        devices=devices_by_module(model),
        stop_tokens={str(lm.tokenizer.convert_ids_to_tokens(index)): index for index in sorted(lm.stop_ids)},
        loading=dict(lm.notes),
        self_check=lm.together.checked,
    )


def models_of(cast: Cast) -> list[ModelInfo]:
    """The receiver, then the sharers, then the receiver after fine-tuning."""
    own = [("receiver", cast.receiver), *(("sharer", s) for s in cast.sharers), ("tuned", cast.tuned)]
    return [*(model_info(role, lm) for role, lm in own if lm is not None), *map(served_info, cast.served)]


def served_info(model: Served) -> ModelInfo:
    """Names a model behind somebody else's engine; nobody here sees its weights."""
    reference = model.reference
    return ModelInfo(role=model.role, reference=reference.text, revision=reference.revision or "", fingerprint="")


def fusers_of(config: RunConfig, cast: Cast) -> list[dict[str, Any]]:
    """Every fuser's reference, digest, size and origin: those of the sharers, then that of the receiver with itself."""
    named = [("sharer", *pair) for pair in zip(config.fusers, cast.fusers, strict=False)]
    if config.self_fuser is not None and cast.self_fuser is not None:
        named.append(("self", config.self_fuser, cast.self_fuser))
    return [
        {
            "role": role,
            "form": fuser.form,
            "reference": reference,
            **_origin_of(cast, reference),
            "parameters": sum(p.numel() for p in fuser.parameters()),
            "layers": fuser.layers,
        }
        for role, reference, fuser in named
    ]


def _origin_of(cast: Cast, reference: str) -> dict[str, Any]:
    """Where a fuser's weights are from, and which they are."""
    if reference in cast.fuser_digests:
        return {"revision": "", "fingerprint": cast.fuser_digests[reference], "training": {}}
    place = cast.fuser_places[reference]
    files = sorted(path for path in place.folder.iterdir() if path.is_file())
    return {"revision": place.commit, "fingerprint": sha256_files(files), "training": of_fuser(place.folder)}


def gates_of(cast: Cast) -> list[dict[str, Any]]:
    """What the fusers report of each receiver layer, such as gate logits, a fuser after the other."""
    rows: list[dict[str, Any]] = []
    for number, fuser in enumerate(cast.fusers):
        rows += [{"layer": row["layer"], "sharer": number, **row} for row in fuser.layer_figures()]
    return rows


def extra_identity(
    benchmark: Benchmark, cast: Cast, models: list[ModelInfo], fusers: list[dict[str, Any]]
) -> dict[str, Any]:
    """What names alone do not pin; the prompts' digest catches an edited prompt without a new version."""
    lending = any("donor" in CONTROLS.get(name).inputs for group in cast.groups for name in group.controls)
    lent = {"donors": DONORS} if lending else {}
    return {
        "weights": [m.fingerprint for m in models],
        "fuser_weights": [f["fingerprint"] for f in fusers],
        "dtypes": [m.dtype for m in models],
        "documents": benchmark.fingerprints,
        "task_versions": benchmark.versions,
        "prompts": {task: _prompts(items) for task, items in benchmark.items.items()},
        **lent,
        **rendering_identity(cast, any(i.request.query.receiver.chat for i in benchmark.all_items)),
    }


def _prompts(items: list[Any]) -> str:
    return hashlib.sha256("".join(i.prompt_sha256 for i in items).encode()).hexdigest()


def _files(lm: LM) -> list[Path]:
    adapter = lm.reference.adapter
    return [*_model_files(lm.reference), *(_content(Path(adapter)) if adapter else ())]


def _model_files(reference: Reference) -> list[Path]:
    if reference.gguf_file is not None:
        return [Path(reference.source) / reference.gguf_file]
    return _content(Path(reference.source))


def _content(folder: Path) -> list[Path]:
    named = (p for p in folder.iterdir() if p.is_file() and p.suffix in _CONTENT)
    return sorted(p for p in named if not p.name.upper().startswith(_BESIDE))
