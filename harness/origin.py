"""How trained weights came about, as their own file says it: seed, steps, data, recipe.

Guarantees plain numbers and short words, since a file may say anything, and no name of a folder, which another
machine does not have. Nothing of it decides how a run computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.fusion.checkpoint import HEADER_FILE, read_header
from harness.merging import WEIGHTS

Origin = dict[str, str | int | float | bool]
_PLACES = {"receiver", "sharer", "sharers", "data", "init", "validate_tasks"}
_LONGEST = 100


def of_fuser(folder: Path) -> Origin:
    """Returns what a fuser's header tells; nothing of the original's format, which has none.

    Raises:
        UserError: if the header is damaged.
    """
    return _told(read_header(folder).provenance) if (folder / HEADER_FILE).is_file() else {}


def of_adapter(folder: Path) -> Origin:
    """Returns what the header of an adapter's weights tells; nothing of one that was trained elsewhere."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return _told(json.loads((file.metadata() or {}).get("provenance", "{}")))
    except (OSError, SafetensorError, ValueError):
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
