"""Choices of layers as they are written in options and recipes. Imports no torch.

A choice among a fuser's layers is one of: ``first`` and ``last`` (half of them, rounded up), ``firstN`` and ``lastN``
(N of them), ``everyN`` (the first of them and every N-th from there), ``topN`` (the N with the highest scores, see
`FuserModule.layer_scores`; of equal ones the lower), or receiver layers by number, such as ``0-13+20`` (a comma would
end a channel on the command line).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from harness.errors import UserError

_NAMED = re.compile(r"(first|last)(\d*)|(every|top)(\d+)", re.ASCII)
_NUMBERS = re.compile(r"\d+(-\d+)?([,+]\d+(-\d+)?)*", re.ASCII)
WAYS = "first, last, firstN, lastN, everyN, topN, or layer numbers such as 0-13+20"


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


def check_layer_choice(text: str) -> str:
    """Returns the choice if it is written as one, whatever the fuser.

    Raises:
        ValueError: it is not.
    """
    named = _NAMED.fullmatch(text)
    if named is None and not _NUMBERS.fullmatch(text):
        raise ValueError(f"give {WAYS}")
    if named and (named[2] or named[4] or "1").strip("0") == "":
        raise ValueError("give a number above zero")
    return text


def select_layers(text: str, layers: Sequence[int], scores: Callable[[], Sequence[float]]) -> frozenset[int]:
    """Chooses among a fuser's receiver layers.

    Args:
        text: see the module.
        layers: the fuser's receiver layers, ascending.
        scores: how much each of them matters; asked for `topN` alone.

    Raises:
        UserError: the fuser has fewer layers, or not the ones that are named.
    """
    named = _NAMED.fullmatch(text)
    if named is None:
        return _numbered(text, layers)
    way, count = (named[1] or named[3]), int(named[2] or named[4] or math.ceil(len(layers) / 2))
    if way == "every":
        return frozenset(layers[::count])
    if count > len(layers):
        raise UserError(f"layers is {text!r}, but the fuser has {len(layers)}; give at most {way}{len(layers)}.")
    if way == "top":
        found = scores()
        best = sorted(range(len(layers)), key=lambda place: (-found[place], place))
        return frozenset(layers[place] for place in best[:count])
    return frozenset(layers[:count] if way == "first" else layers[-count:])


def _numbered(text: str, layers: Sequence[int]) -> frozenset[int]:
    found = chosen_layers(text.replace("+", ","), max(layers) + 1, "layers")
    if missing := sorted(found - set(layers)):
        raise UserError(
            f"layers is {text!r}, but the fuser has no layer {missing[0]}; it has {', '.join(map(str, layers))}."
        )
    return found
