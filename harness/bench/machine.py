"""What this very machine can do: multiplications a second and bytes a second, measured beside the arms.

Guarantees figures of the same process, threads and minute as the timings that are divided by them. The rate is the
best of a few products of a language model's kind, the bandwidth that of reading, or of a product of one row where that
reads faster. The rate of such a product, which is what decoding does, is told beside them: where it falls short of the
bandwidth, the gap belongs to the matrix library and no floor shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch.nn.functional import linear

_PRODUCTS = ((256, 1024, 1024), (256, 1024, 3072), (1024, 1024, 1024))
_GPU_PRODUCTS = ((4096, 4096, 4096), (8192, 8192, 8192))
_READ_BYTES = 256 * 2**20
_ROW_WIDTH = 1024


@dataclass(frozen=True)
class Speeds:
    """What the machine does in a second.

    Attributes:
        flops_per_s: floating-point operations in products.
        bytes_per_s: bytes read, by whatever reads fastest.
        row_bytes_per_s: bytes of weights in a product of one row.
    """

    flops_per_s: float
    bytes_per_s: float
    row_bytes_per_s: float = 0.0


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
        self._row = torch.randn(_ROW_WIDTH, device=device).to(dtype)
        self._weights = torch.randn(_READ_BYTES // 4 // _ROW_WIDTH, _ROW_WIDTH, device=device).to(dtype)

    def measure(self) -> list[float]:
        """One round: operations a second of every product, then bytes a second of reading and of a one-row product."""
        rates = []
        for a, b in self._factors:
            seconds = self._seconds(partial(linear, a, b))
            rates.append(2 * a.shape[0] * a.shape[1] * b.shape[0] / seconds)
        row_s = self._seconds(lambda: torch.mv(self._weights, self._row))
        return [*rates, _READ_BYTES / self._seconds(self._block.sum), self._weights.nbytes / row_s]

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
    """The median of every figure over the rounds; of the products, and of the ways to read, the best counts."""
    *rates, bandwidth, row = (median(column) for column in zip(*rounds, strict=True))
    return Speeds(max(rates), max(bandwidth, row), row)
