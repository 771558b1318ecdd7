"""Linear layers that multiply a single row as a vector, which is what decoding at batch 1 does all the time.

On a CPU in bfloat16 the matrix library reads its weights at half the speed when one row comes as a matrix. Guarantees
the same weights under the same names; only who multiplies changes, so numbers agree up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RowLinear(nn.Linear):
    """A linear layer with a way of its own for one row."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """Returns `[..., out_features]` of `[..., in_features]`."""
        if input.numel() != self.in_features:
            return super().forward(input)
        row = input.reshape(-1)
        product = torch.mv(self.weight, row) if self.bias is None else torch.addmv(self.bias, self.weight, row)
        return product.view(*input.shape[:-1], self.out_features)


def multiply_rows_as_vectors(model: nn.Module) -> None:
    """Puts a `RowLinear` in place of every plain linear layer on a CPU; a spread or split model stays as it is.

    The new layers hold the same parameters; the layers that they replace are left as they were.
    """
    if getattr(model, "hf_device_map", None) is not None or getattr(model, "_tp_size", None):
        return
    _replace(model, nn.Linear, RowLinear)


@contextmanager
def as_the_library_has_it(model: nn.Module) -> Iterator[None]:
    """Puts plain linear layers in their places for the time of the block, so that a library is timed unmodified."""
    _replace(model, RowLinear, nn.Linear)
    try:
        yield
    finally:
        _replace(model, nn.Linear, RowLinear)


def with_own_modules(model: nn.Module) -> nn.Module:
    """Returns a copy of a model over the same weights: what is done to its modules does not reach the original."""
    kept: dict[int, object] = {id(buffer): buffer for buffer in model.buffers()}
    kept |= {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, kept)


def _replace(model: nn.Module, present: type[nn.Linear], wanted: type[nn.Linear]) -> None:
    made: dict[int, nn.Module] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if path and type(layer) is present and layer.weight.device.type == "cpu":
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent).register_module(name, made.setdefault(id(layer), _twin(layer, wanted)))


def _twin(layer: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    """Returns a layer of another class that shares parameters, hooks and settings."""
    made = kind.__new__(kind)
    made.__dict__.update(layer.__dict__)
    return made
