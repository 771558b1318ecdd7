"""Checkpoints of a training run: trained weights, optimizer and position, each a whole folder or none at all.

Guarantees that a run which resumes goes on with the same bits: data order and noise follow from the seed and the
step, everything else is saved. Read as data only (safetensors and JSON).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from harness.config.identity import differing
from harness.errors import UserError
from harness.fusers.checkpoint import load, save
from harness.fusers.interface import FuserModule
from harness.records.files import explaining, sync_folder, write_atomic
from harness.training.interface import Trained

if TYPE_CHECKING:
    from harness.training.loop import Optimisation

SCHEMA_VERSION = 1

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        tokens: response tokens learned from.
        skipped: rows that taught nothing, whenever their turn came.
        left_out: how many of them for each reason, by its name in `Reason`.
        seconds: of training so far.
        cpu_s: processor seconds of this process meanwhile, over all its threads.
        best_step: of the best validation, with its score (higher is better).
    """

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_s: float = 0.0
    best_step: int | None = None
    best_score: float | None = None


@dataclass
class Checkpoints:
    """The checkpoints in a run's folder.

    Attributes:
        folder: of the checkpoints.
        identity: what a run that resumes has to agree with.
        keep: newest ones to keep beside the best.
        provenance: what the weights' header says about their origin.
    """

    folder: Path
    identity: Mapping[str, Any]
    keep: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def steps(self) -> list[int]:
        """Steps of which there is a whole checkpoint, ascending."""
        names = (re.fullmatch(r"step-(\d{8})", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> Position | None:
        """Where the newest checkpoint stands."""
        return Position(**_state(self.at(self.steps()[-1]) / STATE)["position"]) if self.steps() else None

    def at(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def write(self, position: Position, trained: Trained, optimisation: Optimisation) -> None:
        """Adds a checkpoint and drops old ones.

        Raises:
            RunError: if the disk is full or failing.
        """
        final = self.at(position.step)
        fresh = final.with_name(f".{final.name}")
        with explaining(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
        trained.save(fresh, {**self.provenance, "step": position.step})
        write_atomic(fresh / OPTIMIZER, to_safetensors(optimisation.tensors()))
        state = {
            "schema_version": SCHEMA_VERSION,
            "identity": dict(self.identity),
            "position": asdict(position),
            "schedule": optimisation.scheduler.state_dict(),
        }
        write_atomic(fresh / STATE, json.dumps(state, indent=2))
        with explaining(final):
            shutil.rmtree(final, ignore_errors=True)
            os.replace(fresh, final)
            sync_folder(self.folder)
        self._prune(position.best_step)

    def read(self, trained: Trained, optimisation: Optimisation) -> Position:
        """Restores the newest checkpoint, of which there is one.

        Raises:
            UserError: if it is damaged or of a run with other settings.
        """
        place = self.at(self.steps()[-1])
        state = _state(place / STATE)
        if names := differing(state["identity"], self.identity):
            raise UserError(
                f"{self.folder.parent} was trained with another {', '.join(names)}; use the same to resume."
            )
        trained.restore(place)
        try:
            optimisation.restore(load_file(place / OPTIMIZER), state["schedule"])
        except (OSError, SafetensorError, KeyError) as error:
            raise _damaged(place / OPTIMIZER, error) from error
        return Position(**state["position"])

    def _prune(self, best: int | None) -> None:
        for step in self.steps()[: -self.keep]:
            if step != best:
                shutil.rmtree(self.at(step), ignore_errors=True)


def save_fusers(fusers: Sequence[FuserModule], folder: Path, provenance: Mapping[str, Any]) -> None:
    """Writes fusers in our format, one as ``fuser``, several as ``fuser-0``, ``fuser-1``, ..."""
    for number, fuser in enumerate(fusers):
        save(fuser, folder / fuser_name(number, len(fusers)), {**provenance, "sharer": provenance["sharers"][number]})


def load_fusers(folder: Path, count: int) -> list[FuserModule]:
    """Reads what `save_fusers` wrote."""
    return [load(folder / fuser_name(number, count)) for number in range(count)]


def fuser_name(number: int, count: int) -> str:
    """Folder name of one of several fusers."""
    return "fuser" if count == 1 else f"fuser-{number}"


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}); remove {path.parent} to go on from the checkpoint before.")


def _state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = state["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {version}; this harness reads up to {SCHEMA_VERSION}: update it.")
    return state
