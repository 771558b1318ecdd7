"""Devices that do not exist, on a machine that has one: tensors carry a name and may only meet their own kind.

Every call of torch in the mode's block is checked as a GPU would check it (an operation over two devices raises), and
is then computed on the CPU, so that numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.models.lm import LM

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("xpu:0"), torch.device("xpu:1")
_DEVICE = Tensor.device.__get__


class FakeDevices(TorchFunctionMode):
    """The mode; `moves` counts tensors that went from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == _DEVICE:
            return device_of(args[0])
        inside = {device_of(value) for value in _tensors((args, kwargs)) if value.ndim or device_of(value) != CPU}
        wanted, args = _wanted(func, list(args), kwargs)
        if wanted is None and len(inside) > 1:
            raise RuntimeError(f"{getattr(func, '__name__', func)} over devices {sorted(map(str, inside))}")
        made = func(*args, **kwargs)
        place = wanted or next(iter(inside), CPU)
        self.moves += func is Tensor.to and inside not in ({place}, set())
        if func is Tensor.to and made is args[0] and inside != {place}:
            made = made.clone()
        return _placed(made, place)


def device_of(value: Tensor) -> torch.device:
    """Where a tensor pretends to be."""
    return getattr(value, "pretended", CPU)


def put(module: nn.Module, device: torch.device) -> None:
    """Lets a module's tensors pretend to be on a device."""
    for value in (*module.parameters(), *module.buffers()):
        value.pretended = device


def spread(lm: LM, devices: Sequence[torch.device]) -> None:
    """Lets a model's layers pretend to be on devices, in turn; everything else is on the first one."""
    lm.model.hf_device_map = {"": "xpu:0"}
    put(lm.model, devices[0])
    for number, layer in enumerate(lm.model.base_model.layers):
        _hooked(layer, devices[number % len(devices)])
    for module in (lm.model.base_model.norm, lm.model.base_model.rotary_emb, lm.model.get_output_embeddings()):
        _hooked(module, devices[0])


def _hooked(module: nn.Module, device: torch.device) -> None:
    """Moves what a module is given to its device, as accelerate does."""
    put(module, device)

    def move(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return send_to_device(args, device), send_to_device(kwargs, device, skip_keys=["cache", "past_key_values"])

    module.register_forward_pre_hook(move, with_kwargs=True)


def _wanted(func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[torch.device | None, list[Any]]:
    """The device that a call names, taken out of its arguments."""
    device = kwargs.pop("device", None)
    if func is Tensor.to:
        device = next((a for a in args[1:] if isinstance(a, torch.device | str)), device)
        args = [a for a in args if not isinstance(a, torch.device | str)]
        if len(args) == 1 and "dtype" not in kwargs:
            args.append(args[0].dtype)
    return (None if device is None else torch.device(device)), args


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _placed(made: Any, place: torch.device) -> Any:
    for value in _tensors(made):
        value.pretended = place
    return made
