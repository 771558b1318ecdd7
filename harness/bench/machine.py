"""What this very machine can do: multiplications a second and bytes a second, measured beside the arms.

Guarantees figures of the same process, threads and minute as the timings that are divided by them. The rate is the
best of a few products of a language model's kind, the bandwidth that of reading, which is what decoding does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn.functional import linear

_PRODUCTS = ((256, 1024, 1024), (256, 1024, 3072), (1024, 1024, 1024))
_GPU_PRODUCTS = ((4096, 4096, 4096), (8192, 8192, 8192))
_READ_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Speeds:
    """Floating-point operations and bytes read, each a second."""

    flops_per_s: float
    bytes_per_s: float


class Meter:
    """Measures a device again and again; its buffers are made once."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        shapes = _GPU_PRODUCTS if device.type == "cuda" else _PRODUCTS
        self._device = device
        self._factors = [
            (torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype))
            for m, k, n in shapes
        ]
        self._block = torch.ones(_READ_BYTES // 4, device=device)

    def measure(self) -> list[float]:
        """One round: operations a second of every product, then bytes a second."""
        rates = []
        for a, b in self._factors:
            seconds = self._seconds(lambda a=a, b=b: linear(a, b))  # type: ignore[misc]
            rates.append(2 * a.shape[0] * a.shape[1] * b.shape[0] / seconds)
        return [*rates, _READ_BYTES / self._seconds(self._block.sum)]

    def _seconds(self, call: Callable[[], object]) -> float:
        call()
        self._settle()
        start = time.perf_counter()
        call()
        self._settle()
        return time.perf_counter() - start

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def speeds(rounds: Sequence[Sequence[float]]) -> Speeds:
    """The median of every figure over the rounds; of the products the best counts."""
    *rates, bandwidth = (median(column) for column in zip(*rounds, strict=True))
    return Speeds(max(rates), bandwidth)
