"""Peak memory: of the GPU's allocator where there is one, of the whole process otherwise."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

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
