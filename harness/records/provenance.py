"""Which code, packages and switches a run used, so that its numbers can be made again.

Only switches from a closed list are recorded, never the whole environment, and none whose name says secret.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import harness
from harness.records.schema import Git
from harness.records.secret import is_secret, scrub

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
    chosen = switches | (_NAMES & set(given))
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
