"""Runs in processes of their own: started from one that has everything imported, so that each takes a second."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

from harness import cli
from harness.records import files, journal

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "harness.evaluation.run",
        "harness.relay_build.rows",
        "harness.benchmarks.lm_eval_functions",
        "harness.benchmarks.registry",
        "lm_eval.tasks",
        "accelerate",
        "transformers.models.qwen3.modeling_qwen3",
        "transformers.models.llama.modeling_llama",
        "transformers.models.auto.tokenization_auto",
        "tests.support.processes",
    ]
)


def forked(work: Callable[..., int], *arguments: Any, said: Path | None = None) -> BaseProcess:
    """Starts `work` in a process of its own, silent or with its standard error in `said`."""
    child = _SERVER.Process(target=_silently, args=(said, work, *arguments))
    child.start()
    return child


def _silently(said: Path | None, work: Callable[..., int], *arguments: Any) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent if said is None else os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os._exit(work(*arguments))


def ended(child: BaseProcess) -> int | None:
    """Exit code, negative for a signal."""
    child.join(120)
    return child.exitcode


def run(arguments: Sequence[str]) -> int:
    """The command line, in whatever process."""
    return cli.main(list(arguments))


def _working(arguments: list[str], cwd: Path, output: Path) -> int:
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
    code = cli.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def command(*arguments: str, cwd: Path) -> CompletedProcess[str]:
    """Runs the command line apart, in a folder whose modules can be imported, and returns what a shell would see.

    What it registers goes with its process.
    """
    with TemporaryDirectory() as folder:
        output, said = Path(folder, "output"), Path(folder, "said")
        code = ended(forked(_working, list(arguments), cwd, output, said=said))
        assert code is not None
        return CompletedProcess(arguments, code, output.read_text(), said.read_text())


def dying(arguments: Sequence[str], batch: int, written: float) -> int:
    """Dies with a part of its `batch`-th write to the journal done."""
    left = [batch]
    write = files.write_fully

    def half(fd: int, data: bytes) -> None:
        left[0] -= 1
        if left[0] > 0:
            write(fd, data)
            return
        write(fd, data[: int(len(data) * written)])
        os.kill(os.getpid(), signal.SIGKILL)

    journal.write_fully = half
    return run(arguments)


def lines(folder: Path) -> list[str]:
    """The samples that the first process has written, in whatever order."""
    return sorted((folder / "samples.jsonl").read_text().splitlines())


def record(folder: Path) -> dict[str, Any]:
    """What `run.json` says."""
    return dict(json.loads((folder / "run.json").read_text()))
