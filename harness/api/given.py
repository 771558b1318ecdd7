"""Models, fusers and channels that `evaluate` takes as objects, each under a reference that pins what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from harness.channels.control_registry import CONTROLS
from harness.channels.registry import CHANNELS
from harness.config.validation import OWN
from harness.errors import UserError
from harness.evaluation.setup import InMemory
from harness.fusers.interface import FuserModule
from harness.models.in_memory import digest_of, lm_of, pinned, reference_of
from harness.models.lm import DTYPES, LM
from harness.registry import Registry

ONE_MODEL = ("receiver", "tuned")
SEVERAL_MODELS = ("sharers",)
ONE_FUSER = ("self_fuser",)
SEVERAL_FUSERS = ("fusers",)

# Settings by which models are read from files; those in memory have been read.
_OF_FILES = ("device_map", "trust_remote_code", "peft")

ORIGIN = "harness.evaluate"

_REGISTERED: Mapping[str, Registry[Any]] = {"channels": CHANNELS, "controls": CONTROLS}


@dataclass
class Given:
    """Collects what is given as objects, while their references take their place in the settings."""

    models: dict[str, LM] = field(default_factory=dict)
    fusers: dict[str, FuserModule] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def in_memory(self) -> InMemory:
        """The same, as a run takes it."""
        return InMemory(self.models, self.fusers, self.digests)

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns settings in which every object is named.

        Raises:
            UserError: an object is of a kind that cannot be used, or a setting has no effect on it.
        """
        found = {name: _plain(value) for name, value in values.items()}
        found |= {name: self._model(name, found[name]) for name in ONE_MODEL if name in found}
        found |= {name: self._fuser(name, found[name]) for name in ONE_FUSER if name in found}
        for names, one in ((SEVERAL_MODELS, self._model), (SEVERAL_FUSERS, self._fuser)):
            found |= {name: [one(name, part) for part in _several(found[name])] for name in names if name in found}
        for listed, registry in _REGISTERED.items():
            if listed in found:
                found[listed] = [_registered(part, registry) for part in _several(found[listed])]
        return self._placed(found) if self.models else found

    def _model(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, LM):
            lm = pinned(value)
        elif isinstance(value, tuple) and len(value) == 2:
            lm = lm_of(*value)
        else:
            raise UserError(
                f"{name} is a {type(value).__name__}; give a name, a folder, or the pair (model, tokenizer) of loaded "
                "objects."
            )
        self.models[lm.reference.text] = lm
        return lm.reference.text

    def _fuser(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if not isinstance(value, FuserModule):
            raise UserError(f"{name} is a {type(value).__name__}; give a folder, a name or a loaded fuser.")
        config = TypeAdapter(value.config_type).dump_python(value.config, mode="json")
        digest = digest_of(value, {"form": value.form, "config": config})
        reference = reference_of(value.form, digest)
        self.fusers[reference], self.digests[reference] = value, digest
        return reference

    def _placed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Models that are named go where the loaded receiver is; a loaded one stays where and as it is."""
        self._refuse_without_effect(values)
        receiver = self.models.get(values.get("receiver", ""))
        if receiver is None or "device_map" in values:
            return values
        kind = str(receiver.dtype).removeprefix("torch.")
        dtype = {"dtype": kind} if kind in DTYPES else {}
        place = {"device": str(receiver.device)} if receiver.device.type in ("cpu", "cuda") else {}
        return {**place, **dtype, **values}

    def _refuse_without_effect(self, values: Mapping[str, Any]) -> None:
        if values.get("backend", OWN) != OWN:
            raise UserError(f"Backend {values['backend']!r} loads models by itself; name them instead of objects.")
        named = [values.get("receiver"), values.get("tuned"), *values.get("sharers", ())]
        if all(name is None or name in self.models for name in named):
            for setting in (name for name in _OF_FILES if values.get(name)):
                raise UserError(f"{setting} says how models are read from files, and all are loaded; leave it out.")
        if values.get("peft") and values.get("receiver") in self.models:
            raise UserError("peft is merged into a receiver that is read from files; give the merged model itself.")
        for lm in self.models.values():
            _check_as_it_is(lm, values)


def _check_as_it_is(lm: LM, values: Mapping[str, Any]) -> None:
    """Refuses settings that a loaded model contradicts.

    Raises:
        UserError: naming the first.
    """
    own = {
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "attention": str(lm.config._attn_implementation),
    }
    for name, is_ in own.items():
        asked = values.get(name, "auto")
        if asked not in ("auto", is_) and (name, asked) != ("device", lm.device.type):
            raise UserError(
                f"{name} is {asked!r}, but {lm.reference.text} is loaded with {is_!r} and stays as it is; leave "
                f"{name} out, or load the model so."
            )


def _registered(value: Any, registry: Registry[Any]) -> Any:
    """The name of an entry; one given as itself is registered, in place of an earlier one that was given so."""
    if not isinstance(value, registry.kind):
        return value
    return registry.put(value, ORIGIN).name


def _several(value: Any) -> list[Any]:
    """The parts of a list, or of a text with commas; anything else, as a model with its tokenizer, is one part."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    pair = isinstance(value, tuple) and any(isinstance(part, nn.Module) for part in value)
    return list(value) if isinstance(value, list | tuple) and not pair else [value]


def _plain(value: Any) -> Any:
    """Paths as text, also in lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(part) for part in value] if isinstance(value, list) else value
