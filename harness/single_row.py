"""Linear layers that multiply a single row as a vector, which is what decoding at batch 1 does all the time.

On a CPU in bfloat16 the matrix library reads its weights at half the speed when one row comes as a matrix. Guarantees
the same weights under the same names; only who multiplies changes, so numbers agree up to rounding.
"""

from __future__ import annotations

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
    """Gives every plain linear layer on a CPU that way; a model that is spread or split stays as it is."""
    if getattr(model, "hf_device_map", None) is not None or getattr(model, "_tp_size", None):
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu":
            module.__class__ = RowLinear


@contextmanager
def as_the_library_has_it(model: nn.Module) -> Iterator[None]:
    """Takes that way back for a while, for whoever is compared with."""
    changed: list[nn.Module] = [module for module in model.modules() if type(module) is RowLinear]
    try:
        for module in changed:
            module.__class__ = nn.Linear
        yield
    finally:
        for module in changed:
            module.__class__ = RowLinear
