"""Peak memory: of the GPU's allocator where there is one, of the whole process otherwise."""

from __future__ import annotations

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Most bytes ever in use: allocated on all CUDA devices by this process, or resident on a CPU."""
    if device.type == "cuda":
        return sum(int(torch.cuda.max_memory_allocated(number)) for number in range(torch.cuda.device_count()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
