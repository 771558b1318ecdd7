"""The code, packages, switches and hardware of a run.

Only switches from a closed list are recorded, never the whole environment, and none whose name says secret. torch is
asked only where the process has imported it already, so reports stay light.

Latencies of different machines are told apart by a fingerprint of the hardware. It covers what moves timings
(processors, threads, GPU, driver, clocks) and leaves out what differs between two boots of one machine, such as the
exact memory size.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import harness
from harness.records.files import is_secret, scrub
from harness.records.schema import Git, Hardware

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


PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "lm-eval",
    "accelerate",
    "datasets",
    "safetensors",
    "gguf",
    "jinja2",
    "numpy",
    "scipy",
    "pandas",
    "pydantic",
    "peft",
    "flash-attn",
)

_LIBRARIES = "OMP MKL KMP GOMP OPENBLAS CUDA CUBLAS CUDNN TORCH TORCHINDUCTOR PYTORCH ATEN DNNL ONEDNN NCCL HIP HARNESS"

_PREFIXES = tuple(f"{library}_" for library in _LIBRARIES.split())

_NAMES = {
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONHASHSEED",
    "TOKENIZERS_PARALLELISM",
    "MALLOC_ARENA_MAX",
    "LD_PRELOAD",
}

# Where files are kept changes no number, what they hold has fingerprints of its own; nor does a job's name.
_NO_SWITCHES = ("_DIR", "_JOB")

# scikit-learn and joblib set these for the whole process when they are imported; they change no number.
_SET_BY_LIBRARIES = {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}

# By engine: every variable that takes part in the name of one job on one machine; the first engine that is there.
_JOBS = (
    ("HARNESS_JOB",),
    ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_NAME"),
    ("CI_JOB_ID",),
    ("SLURM_JOB_ID",),
    ("BUILD_TAG",),
)

_CODE = ("harness", "tasks", "run_eval.py", "pyproject.toml")

_GIT_TIMEOUT_S = 20


def packages() -> dict[str, str]:
    """Returns the installed versions of everything that can change a number, Python and the harness included."""
    own = {"python": platform.python_version(), "c2c-harness": harness.__version__}
    return own | {name: version for name in PACKAGES if (version := _version(name))}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment switches that change numbers or speed; never a token."""
    given = os.environ if variables is None else variables
    switches = {name for name in given if name.startswith(_PREFIXES) and not name.endswith(_NO_SWITCHES)}
    chosen = (switches - _SET_BY_LIBRARIES) | (_NAMES & set(given))
    return {name: scrub(given[name]) for name in sorted(chosen) if not is_secret(name)}


def job(variables: Mapping[str, str] | None = None) -> str:
    """Returns the CI or batch job that this process is part of; empty where no environment variable says so."""
    given = os.environ if variables is None else variables
    parts = next((names for names in _JOBS if given.get(names[0])), ())
    return "/".join(scrub(given[name]) for name in parts if given.get(name))


def git(root: Path | None = None) -> Git:
    """Returns commit and state of the harness's own checkout; empty where it runs as an installed package.

    `dirty` means that code differs from the commit; files beside the code, such as finished runs, do not count.
    """
    folder = root or Path(__file__).resolve().parents[2]
    own = _git(folder, "ls-files", "--error-unmatch", "harness/__init__.py")
    commit = _git(folder, "rev-parse", "HEAD")
    if not own or not commit:
        return Git()
    changes = _git(folder, "status", "--porcelain", "--", *_CODE)
    return Git(commit=commit, dirty=None if changes is None else bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    """Runs git undisturbed by the variables of a surrounding git command, such as a hook."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
