"""Whose code beside the harness's own answers in a run: the files of plug-ins, by digest.

Guarantees that a run whose plug-in was edited is neither resumed as if nothing had happened nor called the same by a
check. Only the file that defines an entry or builds its channel is read, not what that imports.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.channels.control_registry import CONTROLS
from harness.channels.registry import CHANNELS
from harness.channels.spec import parse_channel
from harness.config import RunConfig
from harness.errors import UserError
from harness.fusers.interface import FuserModule
from harness.fusers.registry import FUSERS
from harness.records.schema import RunRecord
from harness.registry import resolve


def plugin_code(config: RunConfig, fusers: Iterable[FuserModule] = ()) -> dict[str, str]:
    """Returns what other distributions and modules bring to a run -> SHA-256 of the file that does it.

    Args:
        config: names channels and controls.
        fusers: loaded ones, whose form may be a plug-in's.
    """
    channels = {spec.entry.name: spec.entry for spec in map(parse_channel, config.channels)}
    found = {
        f"channel {name}": _code(entry.build or entry.compose)
        for name, entry in channels.items()
        if CHANNELS.origin(name)
    }
    for name in filter(CONTROLS.origin, config.controls):
        entry = CONTROLS.get(name)
        changes = (entry.text, entry.tensors, entry.reader, entry.models)
        found[f"control {name}"] = _code(*(change for change in changes if change))
    found |= {f"fuser {one.form}": _code(type(one)) for one in fusers if FUSERS.origin(one.form)}
    return found


def refuse_lacking(record: RunRecord) -> None:
    """Refuses to go on with a run whose plug-ins are not here, before their names are looked up.

    Raises:
        UserError: naming what they brought, and the plug-ins where the command named them.
    """
    known = {registry.what: registry for registry in (CHANNELS, CONTROLS)}
    brought = record.identity_fields.get("plugins", {})
    parts = [(text, *text.partition(" ")[::2]) for text in brought]
    lacking = [text for text, kind, name in parts if kind in known and name not in known[kind].names()]
    if lacking:
        words = zip(record.command, record.command[1:], strict=False)
        given = " ".join(f"--plugin {file}" for flag, file in words if flag == "--plugin") or "--plugin MODULE"
        raise UserError(f"This run used code of plug-ins ({', '.join(lacking)}), which is not here; give {given}.")


def _code(*targets: str | Callable[..., Any]) -> str:
    """Digest of the files in which callables are written; empty where they were typed at a prompt."""
    modules = (sys.modules.get(getattr(resolve(target), "__module__", "")) for target in targets)
    files = dict.fromkeys(file for module in modules if (file := getattr(module, "__file__", None)))
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest() if files else ""
