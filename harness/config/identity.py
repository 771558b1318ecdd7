"""What makes two runs the same run: every identity field, and what the caller found behind the names.

A reference such as a hub id does not pin weights, so callers add fingerprints of weights, data and templates as
`extra`; nothing that merely runs faster or writes elsewhere takes part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from harness.config.fields import IDENTITY, Marker
from harness.config.run_config import RunConfig


def kinds(model: type[RunConfig] = RunConfig) -> dict[str, str]:
    """Returns "identity" or "runtime" for each field of `model`.

    Raises:
        TypeError: if a field is not classified exactly once.
    """
    found = {}
    for name, info in model.model_fields.items():
        markers = [str(mark) for mark in info.metadata if isinstance(mark, Marker)]
        if len(markers) != 1:
            raise TypeError(f"{name} has to be Identity or Runtime, exactly one of them")
        found[name] = markers[0]
    return found


def identity_fields() -> tuple[str, ...]:
    """Returns the names of the identity fields."""
    return tuple(name for name, kind in kinds().items() if kind == IDENTITY)


def identity(config: RunConfig, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what `identity_hash` is taken over, as plain JSON values.

    Raises:
        ValueError: if `extra` has the name of a field, or holds a number that is not finite.
    """
    own: dict[str, Any] = config.model_dump(mode="json", include=set(identity_fields()))
    added: dict[str, Any] = json.loads(json.dumps(dict(extra or {}), allow_nan=False))
    if clash := own.keys() & added.keys():
        raise ValueError(f"extra identity may not replace fields: {sorted(clash)}")
    return own | added


def identity_hash(config: RunConfig, extra: Mapping[str, Any] | None = None) -> str:
    """Returns the sha256 over the identity, independent of the order of fields."""
    return hashlib.sha256(json.dumps(identity(config, extra), sort_keys=True).encode()).hexdigest()


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Returns the names under which two identities (see `identity`) differ, sorted."""
    absent = object()
    return sorted(name for name in {*a, *b} if a.get(name, absent) != b.get(name, absent))
