"""A choice of a model's layers, as it is written on the command line."""

from __future__ import annotations

import re

from harness.errors import UserError


def chosen_layers(text: str | None, layers: int, name: str = "fuse_layers") -> frozenset[int]:
    """Reads a choice of layers such as ``0-13,20``; None is all.

    Args:
        text: the choice.
        layers: how many there are.
        name: of the setting, for the error.

    Raises:
        UserError: if it is no such choice, or names a layer that is not there.
    """
    if text is None:
        return frozenset(range(layers))
    ends = [re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII) for part in str(text).split(",")]
    ranges = [range(int(end[1]), int(end[2] or end[1]) + 1) for end in ends if end]
    found = frozenset(layer for part in ranges for layer in part)
    if len(ranges) < len(ends) or not all(ranges) or max(found) >= layers:
        raise UserError(f"{name} is {text!r}; give layers from 0 to {layers - 1}, such as '0-{layers - 1}'.")
    return found
