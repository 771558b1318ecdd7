"""The two kinds of field: *identity* changes an answer, *runtime* changes only speed, place or verbosity.

A field of neither kind is a defect that a test finds; a run resumes only where every identity field agrees.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from harness.channels.spec import parse_channel, spec_text
from harness.errors import UserError

T = TypeVar("T")


class Marker(str):
    """Says of which kind a field is."""


IDENTITY, RUNTIME = Marker("identity"), Marker("runtime")
Identity = Annotated[T, IDENTITY]
Runtime = Annotated[T, RUNTIME]


def _listed(value: Any) -> Any:
    """A list, or one text with commas, as on the command line."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def _channels(value: Any) -> Any:
    """Canonical forms of channel specs; in YAML a spec may be a mapping."""
    listed = _listed(value)
    if not isinstance(listed, tuple):
        return listed
    texts = [spec_text(part) for part in listed]
    return tuple(parse_channel(text).text if isinstance(text, str) and text else text for text in texts)


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value) is None:
        raise UserError(f"device is {value!r}; allowed: auto, cpu, cuda, cuda:N.")
    return value


STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def _placement(value: Any) -> Any:
    """One of transformers' strategies, or a JSON object as on the command line."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise UserError(f'device_map is no JSON object ({error}); write {{"module": device, ...}}.') from None
    if isinstance(value, str) and value not in STRATEGIES:
        raise UserError(f"device_map is {value!r}; allowed: {', '.join(STRATEGIES)} or a map from module to device.")
    if isinstance(value, dict) and not value:
        raise UserError("device_map is empty; give a strategy or a map from module to device.")
    return value


Scalar = str | int | float | bool | None
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]
Channels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_channels)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(gt=0, lt=100)]
MARGIN_POINTS = 3.0
Device = Annotated[str, AfterValidator(_device)]
DeviceMap = Annotated[str | dict[str, str | int], BeforeValidator(_placement)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "grouped", "flash_attention_2"]
GenKwargs = dict[str, Scalar | list[str]]
