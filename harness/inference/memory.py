"""Peak memory: of a process, of the GPU, and of one call.

A call's peak is what it needs above what was there before it. Guarantees a figure of its own for every call, or none:
on a GPU the allocator's, on Linux the kernel's high-water mark of resident memory, which can be reset; elsewhere
nothing is reported. The peak of a run is the GPU allocator's where there is one, otherwise that of the whole process.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

_RESET = Path("/proc/self/clear_refs")

_PEAK_ONLY = "5"


def forget_peak() -> None:
    """Starts anew, where the system allows it: what an earlier run of this process needed is not this one's peak."""
    if torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    with suppress(OSError):
        _RESET.write_text(_PEAK_ONLY)


def peak_bytes(device: torch.device) -> int:
    """Most bytes in use since `forget_peak`: allocated on all CUDA devices by this process, or resident on a CPU."""
    if device.type == "cuda":
        return sum(int(torch.cuda.max_memory_allocated(number)) for number in range(torch.cuda.device_count()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


T = TypeVar("T")

_RESET_PEAK = "5"


def with_peak(device: torch.device, call: Callable[[], T]) -> tuple[T, int | None]:
    """Runs `call` and returns its result with the bytes by which memory rose meanwhile."""
    return _on_gpu(device, call) if device.type == "cuda" else _resident(call)


def _on_gpu(device: torch.device, call: Callable[[], T]) -> tuple[T, int | None]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    return result, torch.cuda.max_memory_allocated(device) - before


def _resident(call: Callable[[], T], process: Path = Path("/proc/self")) -> tuple[T, int | None]:
    _give_freed_memory_back()
    try:
        (process / "clear_refs").write_text(_RESET_PEAK)
        before = _status_bytes(process, "VmRSS")
    except OSError:
        return call(), None
    result = call()
    return result, max(0, _status_bytes(process, "VmHWM") - before)


def _give_freed_memory_back() -> None:
    # What the allocator keeps for later would be counted as there before and hide a peak.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(process: Path, field: str) -> int:
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
