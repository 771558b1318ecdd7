"""What the run ran on, and the fingerprint by which latencies are told apart.

torch is asked only where the process has imported it already, so reports stay light. The fingerprint covers what
moves timings (processors, threads, GPU, driver, clocks) and leaves out what differs between two boots of one
machine, such as the exact memory size.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from harness.records.schema import Hardware

_TIMING_FIELDS = ("cpu", "cores", "threads", "gpu", "gpu_count", "driver", "cuda", "clocks")
_SMI_FIELDS = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit")
_SMI_TIMEOUT_S = 20


def hardware() -> Hardware:
    """Describes this machine as the process sees it now; call it after threads and device are set."""
    found = Hardware(
        cpu=_cpu(),
        cores=_cores(),
        threads=_threads(),
        memory_bytes=psutil.virtual_memory().total,
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        **_gpu(),
    )
    return found.model_copy(update={"fingerprint": fingerprint(found)})


def fingerprint(found: Hardware) -> str:
    """Returns a sha256 over everything of `found` that moves timings."""
    relevant = {name: getattr(found, name) for name in _TIMING_FIELDS}
    relevant["machine"] = found.platform.split(" ")[-1]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _cpu(info: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's name with its family and model: virtual machines hide the rest of the name."""
    lines = info.read_text(errors="replace").split("\n\n")[0].splitlines() if info.is_file() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in said:
        return platform.processor() or platform.machine()
    return f"{said['model name']} (family {said.get('cpu family', '?')}, model {said.get('model', '?')})"


def _cores() -> int:
    """Returns the cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() else _cores()


def _gpu() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver, clocks = _driver(properties)
    return {
        "gpu": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_bytes": properties.total_memory,
        "cuda": str(torch.version.cuda or getattr(torch.version, "hip", "") or ""),
        "driver": driver,
        "clocks": clocks,
    }


def _driver(properties: Any) -> tuple[str, str]:
    """Returns driver version and clock limits, each empty where the vendor's tool does not say."""
    uuid = getattr(properties, "uuid", None)
    which = ["-i", f"GPU-{uuid}"] if uuid else []
    query = ["nvidia-smi", *which, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", ""
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout.strip() else []
    if len(values) != len(_SMI_FIELDS):
        return "", ""
    return values[0], f"max SM {values[1]}, max memory {values[2]}, power limit {values[3]}"
