"""A choice of a model's layers, as it is written on the command line."""

from __future__ import annotations

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
    try:
        ends = [[int(end) for end in part.split("-")] for part in str(text).split(",")]
        found = frozenset(layer for part in ends for layer in range(part[0], part[-1] + 1))
    except ValueError:
        found = frozenset()
    if not found or max(found) >= layers:
        raise UserError(f"{name} is {text!r}; give layers from 0 to {layers - 1}, such as '0-{layers - 1}'.")
    return found
